"""`tidings publish`: one message, or a stream of lines with bad ones among them."""

import json
import os
import threading
from datetime import UTC, datetime

import pytest

from tidings.cli.main import run
from tidings.errors import DiskFull, InvalidName
from tidings.limits import PAYLOAD_SIZE_BYTES_MAX
from tidings.model import JSON

TEXT = "text/plain; charset=utf-8"


@pytest.fixture
def stdin(monkeypatch, tmp_path):
    """Returns a function that makes bytes the standard input."""
    files = []

    def feed(data: bytes) -> None:
        path = tmp_path / "stdin"
        path.write_bytes(data)
        files.append(path.open("rb"))
        monkeypatch.setattr("sys.stdin", files[-1])

    yield feed
    for file in files:
        file.close()


def test_a_confirm_is_printed_as_one_line_of_json(client, capfd):
    assert run(["publish", "orders", "created", '{"id": 7}']) == 0
    captured = capfd.readouterr()
    assert captured.out.count("\n") == 1
    assert json.loads(captured.out) == {
        "queue": "orders", "sequence": 1, "epoch": 1, "count": 1, "durability": "disk", "subscriptions": 0,
        "duplicate_of": None, "handle": None,
    }  # fmt: skip
    assert captured.err == ""
    assert client.closed


def test_a_payload_travels_as_it_was_written(client):
    exact = '{"total": 12.50, "big": 123456789012345678901234567890}'
    assert run(["publish", "orders", "created", exact]) == 0
    assert client.calls == [("publish", "orders", "created", exact.encode(), None, None, None, JSON)]


def test_id_key_and_headers_are_passed_on(client):
    options = ["--id", "a1", "--key", "k", "--header", "x=1", "--header", "y=2=3"]
    assert run(["publish", "orders", "created", "1", *options]) == 0
    assert client.calls[0][4:7] == ({"x": "1", "y": "2=3"}, "a1", "k")


def test_a_message_is_published_later_and_its_confirm_has_the_handle(client, capfd):
    assert run(["publish", "orders", "due", "1", "--at", "2026-01-31T08:00:00Z", "--every", "60"]) == 0
    assert client.calls[1] == ("later", {"at": datetime(2026, 1, 31, 8, tzinfo=UTC), "every": 60.0})
    assert json.loads(capfd.readouterr().out)["handle"] == "1700000000000-7"
    assert run(["publish", "orders", "due", "1", "--delay", "0.5"]) == 0
    assert client.calls[3] == ("later", {"delay": 0.5})


def test_a_time_that_is_none_is_told(client, capfd):
    assert run(["publish", "orders", "due", "1", "--at", "tomorrow"]) == 1
    assert "--at tomorrow: write a time such as" in capfd.readouterr().err
    assert client.calls == []


@pytest.mark.parametrize("option", [("--delay", "5"), ("--id", "a"), ("--header", "a=b")])
def test_what_is_for_one_message_is_refused_for_many(option, client, capfd):
    assert run(["publish", "orders", "due", "-", *option]) == 1
    assert "--header, --id, --key, --delay, --at, --every, --ttl are for one message" in capfd.readouterr().err
    assert client.calls == []


@pytest.mark.parametrize("payload", ["-5", "-1.5e3", "null", "true", '"words"', "[]", " {} "])
def test_every_kind_of_json_is_a_payload(payload, client):
    assert run(["publish", "orders", "created", payload]) == 0
    assert client.published == [payload.encode()]


def test_without_a_payload_it_is_null(client):
    assert run(["publish", "orders", "created"]) == 0
    assert client.published == [b"null"]


@pytest.mark.parametrize("payload", ["words", "{id: 7}", "", "NaN", "'a'", "1 2", "-x"])
def test_what_is_not_json_is_an_error_that_says_how_to_write_it(payload, client, capfd):
    assert run(["publish", "orders", "created", payload]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error (invalid_payload): the payload is not valid JSON")
    assert "single quotes" in error
    assert "--text" in error
    assert client.calls == []


@pytest.mark.parametrize("payload", ["words", "", "7", "ü -", "-x"])
def test_text_is_published_as_text(payload, client):
    assert run(["publish", "notes", "written", "--text", payload]) == 0
    assert client.calls == [("publish", "notes", "written", payload.encode(), None, None, None, TEXT)]


def test_an_error_of_the_server_is_told(client, capfd):
    client.error = InvalidName("queue name 'a b' contains ' '")
    assert run(["publish", "a b", "created", "1"]) == 1
    assert capfd.readouterr().err == "error (invalid_name): queue name 'a b' contains ' '\n"


def test_lines_are_published_in_order_and_summed_up(client, stdin, capfd):
    stdin(b'{"a": 1}\n\n  \n[2]\r\n"last without end"')
    assert run(["publish", "lines", "read", "-"]) == 0
    assert client.published == [b'{"a": 1}', b"[2]", b'"last without end"']
    captured = capfd.readouterr()
    summary = json.loads(captured.out)
    assert summary.pop("seconds") >= 0
    assert summary == {
        "queue": "lines", "event": "read", "messages": 3, "bytes": 29,
        "first_sequence": 1, "last_sequence": 3, "skipped": 0,
    }  # fmt: skip
    assert captured.err == ""


def test_lines_of_text_keep_empty_ones_and_spaces(client, stdin):
    stdin(b" one \n\nnot {json\n")
    assert run(["publish", "lines", "read", "-", "--text"]) == 0
    assert client.published == [b" one ", b"", b"not {json"]
    assert client.calls[0] == ("publish_many", "lines", "read", TEXT)


def test_bad_lines_are_named_and_the_rest_is_published(client, stdin, capfd):
    long = b'"' + b"x" * PAYLOAD_SIZE_BYTES_MAX + b'"'
    stdin(b"1\noops\n3\n" + long + b'\n5\n"\xff"\n7')
    assert run(["publish", "lines", "read", "-"]) == 1
    assert client.published == [b"1", b"3", b"5", b"7"]
    captured = capfd.readouterr()
    errors = captured.err.splitlines()
    assert errors[0].startswith("line 2: not valid JSON: ")
    assert errors[1] == "line 4: 1,048,578 bytes exceed the limit of 1,048,576 bytes; skipped"
    assert errors[2].startswith("line 6: not valid JSON: ")
    assert errors[3] == "3 of 7 lines were skipped, see above"
    summary = json.loads(captured.out)
    assert (summary["messages"], summary["skipped"], summary["last_sequence"]) == (4, 3, 4)


def test_a_line_of_the_largest_payload_is_taken(client, stdin):
    stdin(b"x" * PAYLOAD_SIZE_BYTES_MAX + b"\r\n")
    assert run(["publish", "lines", "read", "-", "--text"]) == 0
    assert [len(payload) for payload in client.published] == [PAYLOAD_SIZE_BYTES_MAX]


def test_text_of_another_encoding_is_a_bad_line(client, stdin, capfd):
    stdin(b"ok\n\xe4\n")
    assert run(["publish", "lines", "read", "-", "--text"]) == 1
    assert client.published == [b"ok"]
    assert capfd.readouterr().err.startswith("line 2: not valid UTF-8; skipped\n")


def test_no_lines_are_no_error(client, stdin, capfd):
    stdin(b"")
    assert run(["publish", "lines", "read", "-"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert (summary["messages"], summary["first_sequence"], summary["last_sequence"]) == (0, None, None)
    assert client.calls == []


def test_a_failure_on_the_way_says_what_was_confirmed(client, monkeypatch, capfd):
    # From a pipe, so that the first line is published before the second is there.
    reader, writer = os.pipe()
    client.error, client.fail_after = DiskFull("no space"), 1
    first_published = threading.Event()
    publish_many = client.publish_many

    async def publish_and_tell(*arguments, **options):
        confirms = await publish_many(*arguments, **options)
        first_published.set()
        return confirms

    monkeypatch.setattr(client, "publish_many", publish_and_tell)

    def write() -> None:
        os.write(writer, b"1\n")
        first_published.wait(timeout=60)
        os.write(writer, b"2\n")

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reader, "rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert run(["publish", "lines", "read", "-"]) == 1
    thread.join()
    os.close(writer)
    captured = capfd.readouterr()
    summary = json.loads(captured.out)
    assert (summary["messages"], summary["last_sequence"]) == (1, 1)
    assert captured.err == "stopped: lines after 1 are not confirmed\nerror (disk_full): no space\n"


def test_a_large_input_goes_in_batches(client, stdin, capfd):
    count = 200_000
    stdin(b"".join(b"%d\n" % number for number in range(count)))
    assert run(["publish", "lines", "read", "-"]) == 0
    assert client.published == [b"%d" % number for number in range(count)]
    assert sum(client.batches) == count
    assert 2 <= len(client.batches) < 100
    assert json.loads(capfd.readouterr().out)["messages"] == count


@pytest.mark.parametrize("option", [["--id", "x"], ["--key", "x"], ["--header", "a=b"]])
def test_what_describes_one_message_is_refused_for_many(option, client, capfd):
    assert run(["publish", "lines", "read", "-", *option]) == 1
    assert "leave them out" in capfd.readouterr().err
    assert client.calls == []


def test_json_that_is_nested_too_deeply_is_told_in_a_line(client, stdin, capfd):
    deep = "[" * 20_000 + "]" * 20_000
    assert run(["publish", "orders", "created", deep]) == 1
    assert capfd.readouterr().err.startswith("error (invalid_payload): the payload is not valid JSON: ")
    stdin(f"1\n{deep}\n3\n".encode())
    assert run(["publish", "orders", "created", "-"]) == 1
    found = capfd.readouterr()
    assert found.err.startswith("line 2: not valid JSON: ")
    assert json.loads(found.out)["messages"] == 2
