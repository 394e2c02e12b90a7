"""`tidings peek` and `tidings purge`: what is asked, and what is printed."""

import json

from tidings.cli.main import run
from tidings.client import StoredMessage
from tidings.errors import NotFound

STORED = StoredMessage(
    queue="orders",
    epoch=2,
    sequence=42,
    event="created",
    data=b'{"id": 7}',
    content_type="application/json",
    id=None,
    key="customer-3",
    headers={},
    published=1_700_000_000_000,
)


def test_a_peek_prints_one_object_for_each_message(client, capfd):
    client.stored = [STORED]
    assert run(["peek", "orders", "--from", "42", "--count", "1"]) == 0
    assert client.calls == [("peek", "orders", 42, 1)]
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line) == {
        "queue": "orders", "epoch": 2, "sequence": 42, "event": "created", "payload": {"id": 7}, "id": None,
        "key": "customer-3", "headers": {}, "published": "2023-11-14T22:13:20.000Z", "content_type": "application/json",
    }  # fmt: skip


def test_a_peek_shows_the_last_ones_unless_it_is_told_where(client):
    assert run(["peek", "orders"]) == 0
    assert client.calls == [("peek", "orders", "latest", 10)]


def test_a_queue_is_purged_or_one_message_deleted(client, capfd):
    assert run(["purge", "orders"]) == 0
    assert run(["purge", "orders", "--sequence", "42"]) == 0
    assert client.calls == [("purge", "orders"), ("delete_message", "orders", 42)]
    assert capfd.readouterr().out == "purged queue orders: 2,000 messages\ndeleted message 42 of queue orders\n"


def test_what_cannot_be_found_is_told_in_one_line(client, capfd):
    client.error = NotFound("there is no queue 'orders'")
    for verb in ("peek", "purge"):
        assert run([verb, "orders"]) == 1
        assert capfd.readouterr().err == "error (not_found): there is no queue 'orders'\n"
