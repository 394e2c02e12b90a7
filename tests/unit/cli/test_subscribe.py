"""`tidings subscribe`: what a message looks like on its line, and when it is acknowledged."""

import base64
import json
import os
from datetime import UTC, datetime

import pytest

from tests.unit.cli.fakes import FakeMessage
from tidings.cli.main import run
from tidings.cli.subscribe import message_line
from tidings.errors import SubscriptionInUse


def line(**fields) -> dict:
    raw = message_line(FakeMessage(**fields))
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1
    return json.loads(raw)


def test_a_message_is_one_object_with_its_place_time_and_attempt():
    assert line(headers={"trace": "x"}, attempt=2, sequence=5) == {
        "queue": "orders",
        "event": "created",
        "sequence": 5,
        "time": "2023-11-14T22:13:20.123Z",
        "attempt": 2,
        "payload": {"id": 7},
        "headers": {"trace": "x"},
    }


def test_id_and_key_are_shown_if_there_are_any():
    entry = line(id="a", key="b")
    assert (entry["id"], entry["key"]) == ("a", "b")


def test_json_stays_on_its_line_and_keeps_its_numbers():
    raw = message_line(FakeMessage(data=b'{\r\n  "a": 1.50,\n  "b": "x\\ny"\n}'))
    assert raw.count(b"\n") == 1
    assert b"1.50" in raw
    assert json.loads(raw)["payload"] == {"a": 1.5, "b": "x\ny"}


@pytest.mark.parametrize("data", [b"not json", b"[" * 5000 + b"]" * 5000])
def test_what_only_claims_to_be_json_is_shown_as_bytes(data):
    entry = line(data=data)
    assert base64.b64decode(entry["payload_base64"]) == data
    assert "payload" not in entry


def test_text_is_text_and_bytes_are_base64():
    assert line(data="grüß\n".encode(), content_type="text/plain; charset=utf-8")["payload"] == "grüß\n"
    binary = line(data=b"\x00\xff", content_type="application/octet-stream")
    assert binary["payload_base64"] == "AP8="
    assert binary["content_type"] == "application/octet-stream"
    assert line(data=b"\xff", content_type="text/plain")["payload_base64"] == "/w=="


def test_messages_are_printed_and_acknowledged_until_the_count(client, capfd):
    client.messages = [FakeMessage(sequence=number) for number in (1, 2, 3)]
    assert run(["subscribe", "orders", "--count", "2"]) == 0
    printed = [json.loads(text)["sequence"] for text in capfd.readouterr().out.splitlines()]
    assert printed == [1, 2]
    # The last one waits for its confirm, so that whoever counted can rely on it.
    assert [message.acks for message in client.messages] == [[(1, False)], [(2, True)], []]
    assert client.closed


def test_without_a_name_the_subscription_is_anonymous_and_live(client):
    assert run(["subscribe", "orders"]) == 0
    assert client.options["client_id"] is None
    assert client.calls == [("subscribe", "orders", None, {"name": None, "start": "latest"})]


def test_a_name_is_client_id_and_subscription(client):
    assert run(["subscribe", "orders", "created", "--as", "billing", "--from", "earliest"]) == 0
    assert client.options["client_id"] == "billing"
    assert client.calls == [("subscribe", "orders", "created", {"name": "billing", "start": "earliest"})]


def test_a_start_is_a_sequence_or_a_time(client):
    assert run(["subscribe", "orders", "--from", "42"]) == 0
    assert run(["subscribe", "orders", "--from", "2026-01-31T08:00:00Z"]) == 0
    starts = [call[3]["start"] for call in client.calls]
    assert starts == [42, datetime(2026, 1, 31, 8, tzinfo=UTC)]


def test_a_wrong_start_is_told_all_that_can_be_written(client, capfd):
    assert run(["subscribe", "orders", "--from", "lst"]) == 1
    assert "earliest, latest, last, a sequence" in capfd.readouterr().err


def test_a_message_that_could_not_be_written_is_not_acknowledged(client, monkeypatch):
    client.messages = [FakeMessage()]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        monkeypatch.setattr("sys.stdout", broken)
        assert run(["subscribe", "orders"]) == 141
    assert client.messages[0].acks == []
    assert client.closed


@pytest.mark.parametrize("count", ["0", "-1"])
def test_a_count_below_one_is_refused(count, client, capfd):
    assert run(["subscribe", "orders", "--count", count]) == 1
    assert "1 or more" in capfd.readouterr().err
    assert client.calls == []


def test_a_refused_subscription_is_told(client, capfd):
    client.error = SubscriptionInUse("subscription 'billing' has a subscriber")
    assert run(["subscribe", "orders", "--as", "billing"]) == 1
    assert capfd.readouterr().err.startswith("error (subscription_in_use): ")
