"""`tidings clients`, `queues` and `subscriptions`: JSON for programs, tables for people, and deleting."""

import json
import math

import pytest

from tidings.cli.clients import print_clients
from tidings.cli.main import run
from tidings.cli.schedules import print_schedules
from tidings.cli.subscriptions import print_subscriptions, resolve
from tidings.errors import NotFound, SubscriptionConflict
from tidings.model import ClientInfo, QueueInfo, ScheduledInfo, SubscriptionInfo

NOW_MS = 1_700_000_000_000


def client_info(client_id: str | None = "billing", *, connected: bool = True) -> ClientInfo:
    return ClientInfo(
        client_id=client_id,
        address="127.0.0.1:5000",
        protocol="native",
        connected=connected,
        connected_since=NOW_MS - 120_000 if connected else None,
        last_seen=NOW_MS - 5_000,
        queues=["orders"],
        subscriptions=["billing"],
        waiting=1_234,
    )


def subscription_info(name: str = "billing", *, client_id: str | None = "billing", lag_exact: bool = True, **changes):
    fields = {
        "name": name,
        "client_id": client_id,
        "durable": True,
        "filter": "orders/created",
        "queue": "orders",
        "event": "created",
        "cursor": 41,
        "lag": 7,
        "lag_exact": lag_exact,
        "in_flight": 1,
        "connected": True,
        "last_ack": NOW_MS - 3_000,
        "last_seen": NOW_MS,
        "expires_after_ms": None,
        "paused": "",
    }
    return SubscriptionInfo(**{**fields, **changes})


QUEUE = QueueInfo(
    name="orders",
    epoch=1,
    first_sequence=3,
    last_sequence=12,
    messages=10,
    bytes=2048,
    subscriptions=2,
    held_by="billing",
    created=NOW_MS,
)


def json_lines(capfd) -> list[dict]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_clients_as_json_have_iso_times_and_null_for_what_is_not(client, capfd):
    client.client_infos = [client_info(), client_info(None, connected=False)]
    assert run(["clients", "--json"]) == 0
    first, second = json_lines(capfd)
    assert first == {
        "client_id": "billing",
        "address": "127.0.0.1:5000",
        "protocol": "native",
        "connected": True,
        "connected_since": "2023-11-14T22:11:20.000Z",
        "last_seen": "2023-11-14T22:13:15.000Z",
        "queues": ["orders"],
        "subscriptions": ["billing"],
        "waiting": 1234,
        "quotas": {},
    }
    assert second["client_id"] is None
    assert second["connected_since"] is None


def test_clients_as_a_table_tell_who_is_away(capfd):
    print_clients([client_info(), client_info(None, connected=False)], now_ms=NOW_MS)
    lines = capfd.readouterr().out.splitlines()
    assert "since 2 min ago" in lines[2]
    assert "1,234" in lines[2]
    assert lines[3].startswith("(anonymous)")
    assert "away, seen 5 s ago" in lines[3]


def test_queues_as_json_and_as_a_table(client, capfd):
    client.queue_infos = [QUEUE]
    assert run(["queues", "--json"]) == 0
    (entry,) = json_lines(capfd)
    wanted = {"name": "orders", "first_sequence": 3, "last_sequence": 12, "messages": 10, "bytes": 2048}
    assert wanted.items() <= entry.items()
    assert entry["subscriptions"] == 2
    assert entry["created"] == "2023-11-14T22:13:20.000Z"
    assert run(["queues"]) == 0
    row = capfd.readouterr().out.splitlines()[2]
    assert row.split() == ["orders", "3", "12", "10", "2.0", "KiB", "2", "billing"]


def test_subscriptions_as_json(client, capfd):
    client.subscription_infos = [subscription_info(), subscription_info("other", last_ack=None)]
    assert run(["subscriptions", "--json"]) == 0
    first, second = json_lines(capfd)
    names = ("name", "client_id", "queue", "event", "cursor", "lag", "in_flight", "connected", "last_ack")
    assert [first[name] for name in names] == [
        "billing", "billing", "orders", "created", 41, 7, 1, True, "2023-11-14T22:13:17.000Z",
    ]  # fmt: skip
    assert second["last_ack"] is None


def test_subscriptions_as_a_table_mark_an_upper_bound_and_a_pause(capfd):
    infos = [
        subscription_info(),
        subscription_info("bound", lag_exact=False, paused="window full"),
        subscription_info(
            "away", connected=False, last_ack=None, last_seen=NOW_MS - 60_000, retrying=3, dead=412, cut=17
        ),
    ]
    print_subscriptions(infos, now_ms=NOW_MS)
    lines = capfd.readouterr().out.splitlines()
    assert "3 s ago" in lines[2]
    assert "≤ 7" in lines[3]
    assert "paused: window full" in lines[3]
    assert "  3    412    17   away, seen 1 min ago" in lines[4]
    assert lines[4].split()[-1] == "never"


@pytest.mark.parametrize("verb", ["clients", "queues", "subscriptions"])
def test_nothing_is_nothing_as_json_and_a_sentence_otherwise(verb, capfd):
    assert run([verb, "--json"]) == 0
    assert capfd.readouterr().out == ""
    assert run([verb]) == 0
    assert capfd.readouterr().out.startswith("No ")


def test_a_queue_is_deleted(client, capfd):
    assert run(["queues", "delete", "orders"]) == 0
    assert client.calls == [("delete_queue", "orders")]
    assert capfd.readouterr().out == "deleted queue orders\n"


def test_a_subscription_is_deleted_by_its_name_or_its_only_owner(client, capfd):
    client.subscription_infos = [subscription_info("invoices", client_id="billing")]
    assert run(["subscriptions", "delete", "invoices"]) == 0
    assert run(["subscriptions", "delete", "billing"]) == 0
    assert client.calls == [("delete_subscription", "invoices")] * 2
    assert capfd.readouterr().out == "deleted subscription invoices\n" * 2


@pytest.mark.parametrize("verb", ["subscription", "subscriptions"])
def test_settings_of_a_subscription_are_changed(client, capfd, verb):
    assert run([verb, "set", "billing", "--attempts-max", "5", "--backoff-min", "0.5"]) == 0
    assert client.calls == [("configure_subscription", "billing", {"attempts_max": 5, "backoff_min": 0.5})]
    assert capfd.readouterr().out == "changed subscription billing\n"
    assert run([verb, "set", "billing", "--no-single-active"]) == 0
    assert client.calls.pop() == ("configure_subscription", "billing", {"single_active": False})

    assert run([verb, "set", "billing"]) == 1
    assert "nothing to change" in capfd.readouterr().err


@pytest.mark.parametrize("noun", ["queue", "queues"])
def test_settings_of_a_queue_are_changed(client, capfd, noun):
    assert (
        run([noun, "set", "orders", "--history-age", "1.5", "--history-bytes", "none", "--history-messages", "0"]) == 0
    )
    settings = {"history_age": 1.5, "history_bytes": math.inf, "history_messages": 0}
    assert client.calls == [("configure_queue", "orders", settings)]
    assert capfd.readouterr().out == "changed queue orders\n"
    assert run([noun, "set", "orders"]) == 1
    assert "nothing to change" in capfd.readouterr().err
    assert run([noun, "set", "orders", "--history-bytes", "much"]) == 1
    assert "--history-bytes much: write a number, or none" in capfd.readouterr().err


def test_a_queue_is_limited(client, capfd):
    limits = ["--ttl", "60", "--waiting-messages", "1000", "--waiting-bytes", "none", "--waiting-age", "1.5"]
    assert run(["queue", "set", "orders", *limits, "--when-full", "drop-oldest"]) == 0
    settings = {"ttl": 60, "waiting_messages": 1000, "waiting_bytes": math.inf, "waiting_age": 1.5}
    settings["when_full"] = "drop-oldest"
    assert client.calls == [("configure_queue", "orders", settings)]
    assert run(["queue", "set", "orders", "--when-full", "drop-new"]) == 2
    assert "drop-oldest" in capfd.readouterr().err


def test_a_name_goes_before_a_client_id():
    infos = [subscription_info("a", client_id="b"), subscription_info("b", client_id="a")]
    assert resolve(infos, "b") == "b"


def test_a_subscription_in_several_queues_is_still_one():
    infos = [subscription_info("logs", queue="a"), subscription_info("logs", queue="b")]
    assert resolve(infos, "billing") == "logs"


def test_a_client_with_several_subscriptions_must_be_told_which():
    infos = [subscription_info("one"), subscription_info("two")]
    with pytest.raises(SubscriptionConflict, match="one, two"):
        resolve(infos, "billing")


def test_an_unknown_subscription_is_not_found(client, capfd):
    with pytest.raises(NotFound):
        resolve([], "billing")
    assert run(["subscriptions", "delete", "billing"]) == 1
    assert capfd.readouterr().err.startswith("error (not_found): ")
    assert client.calls == []


def test_an_anonymous_client_cannot_be_meant():
    with pytest.raises(NotFound):
        resolve([subscription_info("x", client_id=None)], "None")


SCHEDULED = ScheduledInfo(handle="1700003600000-7", queue="orders", event="due", at=NOW_MS + 3_600_000, every_ms=90_000)


def test_schedules_are_listed_for_programs_and_people(client, capfd):
    client.scheduled_infos = [SCHEDULED]
    assert run(["schedules", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {
        "handle": "1700003600000-7", "queue": "orders", "event": "due", "at": "2023-11-14T23:13:20.000Z",
        "every_ms": 90_000,
    }  # fmt: skip
    print_schedules([SCHEDULED], now_ms=NOW_MS)
    table = capfd.readouterr().out
    for cell in ("1700003600000-7", "orders", "due", "2023-11-14T23:13:20.000Z", "in 1 h", "90 s"):
        assert cell in table


def test_a_schedule_is_cancelled_by_its_handle(client, capfd):
    assert run(["schedules", "cancel", "1700003600000-7"]) == 0
    assert client.calls == [("cancel_schedule", "1700003600000-7")]
    assert capfd.readouterr().out == "cancelled 1700003600000-7\n"


def test_quotas_of_clients_and_queues_are_set_and_none_is_no_limit(client, capfd):
    assert run(["client", "set", "shop", "--publish-rate", "100", "--in-flight-max", "none"]) == 0
    assert run(["queue", "set", "orders", "--publish-rate-bytes", "5000", "--subscriptions-max", "3"]) == 0
    assert client.calls == [
        ("configure_client", "shop", {"publish_rate": 100, "in_flight_max": math.inf}),
        ("configure_queue", "orders", {"publish_rate_bytes": 5000, "subscriptions_max": 3}),
    ]
    assert capfd.readouterr().out == "changed client shop\nchanged queue orders\n"
    assert run(["client", "set", "shop"]) == 1
    assert "nothing to change" in capfd.readouterr().err
