"""`tidings receipt`: where a message is, for programs and for people."""

import json

from tidings.cli.main import run
from tidings.cli.receipt import print_receipts
from tidings.model import Receipt

NOW_MS = 1_700_000_000_000
RECEIPTS = [
    Receipt(subscription="audit", state="acked", exact=False),
    Receipt(
        subscription="billing",
        state="in flight",
        attempts=2,
        client_id="worker",
        address="10.0.0.1:5",
        at=NOW_MS - 5_000,
    ),
    Receipt(subscription="mail", state="retrying", attempts=1, at=NOW_MS + 60_000),
    Receipt(subscription="tax", state="dead", attempts=10, at=NOW_MS - 3_600_000, reason="ack timeout", dead_letter=7),
]


def test_receipts_are_one_json_object_each(client, capfd):
    client.receipt_infos = RECEIPTS
    assert run(["receipt", "orders", "42", "--json"]) == 0
    assert client.calls == [("receipts", "orders", 42)]
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["subscription"] for line in lines] == ["audit", "billing", "mail", "tax"]
    assert (lines[1]["state"], lines[1]["at"]) == ("in flight", "2023-11-14T22:13:15.000Z")


def test_the_table_says_who_has_it_since_when_and_what_is_not_sure(capfd):
    print_receipts(RECEIPTS, now_ms=NOW_MS)
    lines = [line.split() for line in capfd.readouterr().out.splitlines()[2:]]
    assert lines[0] == ["audit", "acked?"]
    assert lines[1] == ["billing", "in", "flight", "2", "worker", "5", "s", "ago"]
    assert lines[2] == ["mail", "retrying", "1", "in", "1", "min"]
    assert lines[3] == ["tax", "dead", "10", "1", "h", "ago", "dead", "letter", "7:", "ack", "timeout"]


def test_without_a_subscription_it_says_so(client, capfd):
    assert run(["receipt", "orders", "42"]) == 0
    assert capfd.readouterr().out == "The message is meant for no subscription.\n"
