"""`tidings dead-letters` and `tidings redrive`: what is printed, and what is asked of the server."""

import json

import pytest

from tidings.cli.dead_letters import print_groups
from tidings.cli.main import run
from tidings.client import DeadLetter
from tidings.model import DeadLetterGroup, Failure

NOW_MS = 1_700_000_000_000
TRACEBACK = "Traceback (most recent call last):\n  File \"orders.py\", line 3, in bill\nKeyError: 'vat'\n"


def letter(number: int, **changes) -> DeadLetter:
    fields = {
        "number": number,
        "queue": "orders",
        "epoch": 2,
        "sequence": number + 40,
        "event": "created",
        "data": b'{"id": 7}',
        "content_type": "application/json",
        "id": None,
        "key": "customer-3",
        "headers": {"trace": "a1"},
        "published": NOW_MS - 60_000,
        "died": NOW_MS,
        "reason": "attempts",
        "attempts": 10,
        "client_id": "billing",
        "fingerprint": "5c8f6f3a",
        "failure": Failure("KeyError", "'vat'", "bill() in orders.py", TRACEBACK),
        "edited": False,
    }
    return DeadLetter(**{**fields, **changes})


def group(count: int) -> DeadLetterGroup:
    return DeadLetterGroup(
        fingerprint="5c8f6f3a",
        count=count,
        text="KeyError: 'vat' in bill() in orders.py",
        first_died=NOW_MS - 120_000,
        last_died=NOW_MS - 5_000,
        last_number=count,
    )


def test_groups_are_a_line_for_each_way_to_fail(client, capfd):
    print_groups([group(1_412)], now_ms=NOW_MS)
    row = capfd.readouterr().out.splitlines()[2]
    assert row.startswith("1,412 x KeyError: 'vat' in bill() in orders.py   5c8f6f3a      2 min ago   5 s ago")
    client.groups = [group(412)]
    assert run(["dead-letters", "billing", "--json"]) == 0
    entry = json.loads(capfd.readouterr().out)
    assert (entry["count"], entry["fingerprint"]) == (412, "5c8f6f3a")
    assert entry["last_died"] == "2023-11-14T22:13:15.000Z"


def test_nothing_dead_is_a_sentence(client, capfd):
    assert run(["dead-letters", "billing"]) == 0
    assert capfd.readouterr().out == "No dead letter.\n"


def test_dead_letters_are_listed_all_or_those_of_a_fingerprint(client, capfd):
    client.letters = [letter(1), letter(2, fingerprint="other", failure=None, reason="ack timeout")]
    assert run(["dead-letters", "billing", "--list"]) == 0
    rows = capfd.readouterr().out.splitlines()[2:]
    assert rows[0].split()[:6] == ["1", "orders", "41", "created", "10", "attempts"]
    assert "KeyError: 'vat'" in rows[0]
    assert "ack timeout" in rows[1]
    assert run(["dead-letters", "billing", "--fingerprint", "other", "--json"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    entry = json.loads(line)
    assert (entry["number"], entry["payload"], entry["failure"]) == (2, {"id": 7}, None)
    assert entry["published"] == "2023-11-14T22:12:20.000Z"


def test_one_is_shown_with_payload_headers_and_traceback(client, capfd):
    client.letters = [letter(1), letter(2), letter(3, data=b"\x00", content_type="image/png", failure=None)]
    assert run(["dead-letters", "billing", "--show", "2"]) == 0
    shown = capfd.readouterr().out
    assert "header trace  a1" in shown
    assert "sequence      42" in shown
    assert '\npayload\n{"id": 7}\n' in shown
    assert shown.endswith("KeyError: 'vat'\n")
    assert 'File "orders.py", line 3, in bill' in shown
    assert run(["dead-letters", "billing", "--show", "3"]) == 0
    assert "\npayload\nAA==\n" in capfd.readouterr().out
    assert run(["dead-letters", "billing", "--show", "2", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["failure"]["traceback"] == TRACEBACK
    assert run(["dead-letters", "billing", "--show", "9"]) == 1
    assert "not_found" in capfd.readouterr().err


def test_what_is_shown_cannot_steer_the_terminal(client, capfd):
    evil = "\x1b[2J"
    failure = Failure("E", evil, evil, f"one\n{evil}")
    client.letters = [letter(1, failure=failure, headers={evil: evil}, data=evil.encode(), content_type="text/plain")]
    for arguments in (["--show", "1"], ["--list"]):
        assert run(["dead-letters", "billing", *arguments]) == 0
        assert "\x1b" not in capfd.readouterr().out


def test_one_is_edited(client, capfd):
    assert run(["dead-letters", "billing", "--edit", "7", "--payload", '{"vat": 0.19}']) == 0
    changes = {"payload": b'{"vat": 0.19}', "content_type": "application/json"}
    assert client.calls == [("edit_dead_letter", "billing", 7, changes)]
    assert capfd.readouterr().out == "changed dead letter 7 of billing\n"


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["--number", "7"], {"number": 7, "fingerprint": None}),
        (["--fingerprint", "f"], {"number": None, "fingerprint": "f"}),
        (["--all"], {"number": None, "fingerprint": None}),
    ],
)
def test_what_is_deleted_is_chosen(client, capfd, arguments, chosen):
    client.letters = [letter(1)]
    assert run(["dead-letters", "billing", "--delete", *arguments]) == 0
    assert client.calls == [("delete_dead_letters", "billing", chosen)]
    assert capfd.readouterr().out == "deleted 1 dead letter of billing\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--delete"],
        ["--delete", "--all", "--number", "1"],
        ["--all"],
        ["--number", "1"],
        ["--edit", "1"],
        ["--payload", "1"],
        ["--edit", "1", "--payload", "{"],
        ["--list", "--show", "1"],
    ],
)
def test_what_does_not_fit_together_is_refused_and_changes_nothing(client, capfd, arguments):
    assert run(["dead-letters", "billing", *arguments]) == 1
    assert capfd.readouterr().err.startswith("error (invalid_")
    assert client.calls == []


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ([], {"number": None, "fingerprint": None, "rate": None}),
        (["--number", "7", "--rate", "2.5"], {"number": 7, "fingerprint": None, "rate": 2.5}),
        (["--fingerprint", "f"], {"number": None, "fingerprint": "f", "rate": None}),
        (["--sequence", "42"], {"number": 2, "fingerprint": None, "rate": None}),
    ],
)
def test_what_is_redriven_is_chosen(client, capfd, arguments, chosen):
    client.letters = [letter(1), letter(2)]
    assert run(["redrive", "billing", *arguments]) == 0
    assert client.calls == [("redrive", "billing", chosen)]
    assert capfd.readouterr().out == "redriving 2,000 dead letters of billing\n"


def test_a_sequence_that_is_none_or_several_is_not_redriven(client, capfd):
    client.letters = [letter(1), letter(2, sequence=41, queue="paid")]
    assert run(["redrive", "billing", "--sequence", "9"]) == 1
    assert "not_found" in capfd.readouterr().err
    assert run(["redrive", "billing", "--sequence", "41"]) == 1
    assert "take --number: 1 (queue orders, epoch 2), 2 (queue paid, epoch 2)" in capfd.readouterr().err
    assert run(["redrive", "billing", "--sequence", "41", "--number", "1"]) == 1
    assert run(["redrive", "billing", "--rate", "0"]) == 1
    assert client.calls == []


def test_the_count_as_json(client, capfd):
    assert run(["redrive", "billing", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"subscription": "billing", "redriven": 2000}
