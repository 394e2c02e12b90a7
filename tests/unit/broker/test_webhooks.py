"""Webhooks as the broker knows them: durable, told when they are, and refused where they can never work."""

from typing import Any

import msgspec
import pytest

from tests.unit.broker.harness import Client, Harness, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.broker.records import WebhookRecord
from tidings.calls import DeleteWebhook, DisableWebhook, ListWebhooks, PutWebhook
from tidings.errors import InvalidOption, LimitReached, NotFound, StoreUnavailable, SubscriptionConflict
from tidings.model import PutWebhookInfo, WebhookInfo

SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
OTHER_SECRET = "whsec_" + "WllYV1ZVVFNSUVBPTk1MS0pJSEdGRURDQkE="
URL = "https://shop.example/hooks"


def put(name: str = "shop", **fields: object) -> PutWebhook:
    return PutWebhook(**({"name": name, "url": URL, "queue": "orders", "secret": SECRET} | fields))  # type: ignore[arg-type]


def connected() -> tuple[Harness, Client]:
    harness = Harness()
    return harness, harness.connect(None)


def test_it_is_answered_without_its_secret_and_listed_in_the_order_of_names() -> None:
    harness, client = connected()
    info = client.call(put("b"))
    assert info == PutWebhookInfo(
        is_new=True,
        name="b",
        url=URL,
        queue="orders",
        event="#",
        concurrency=limits.WEBHOOK_CONCURRENCY,
        timeout_ms=limits.WEBHOOK_TIMEOUT_MS,
        created=harness.now_ms,
    )
    client.call(put("a"))
    assert [each.name for each in client.call(ListWebhooks())] == ["a", "b"]
    assert [each.name for each in client.call(ListWebhooks(after="a"))] == ["b"]


def test_a_change_keeps_its_secret_and_where_it_began() -> None:
    harness, client = connected()
    client.call(put(start="earliest"))
    created = harness.now_ms
    harness.advance(5_000)
    client.call(put(secret=None, start="latest", url=URL + "/2", concurrency=1))
    harness.flush()
    harness.restart()
    [webhook] = harness.broker.state.webhooks.values()
    assert (webhook.secret, webhook.start, webhook.created) == (SECRET, "earliest", created)
    assert (webhook.url, webhook.concurrency) == (URL + "/2", 1)


def test_of_two_who_make_the_same_one_only_the_first_ones_secret_counts() -> None:
    harness, client = connected()
    other = harness.connect(None)
    harness.store_is_held = True
    harness.do(inputs.Call(client.connection, 1, put(secret=None, fresh_secret=SECRET)))
    harness.do(inputs.Call(other.connection, 1, put(secret=None, fresh_secret=OTHER_SECRET)))
    harness.store_is_held = False
    harness.commit()
    assert (client.answers[1].is_new, other.answers[1].is_new) == (True, False)  # type: ignore[attr-defined]
    [webhook] = harness.broker.state.webhooks.values()
    assert webhook.secret == SECRET
    assert client.call(put(secret=OTHER_SECRET)).is_new is False
    [webhook] = harness.broker.state.webhooks.values()
    assert webhook.secret == OTHER_SECRET


def test_one_that_is_disabled_says_why_after_a_restart_too_until_it_is_put_again() -> None:
    harness, client = connected()
    client.call(put(cloudevents="binary"))
    assert client.call(DisableWebhook(name="shop", url=URL + "/former", reason="HTTP 410 Gone")) is None
    [info] = client.call(ListWebhooks())
    assert (info.disabled, harness.webhook_changes) == ("", 2)
    client.call(DisableWebhook(name="shop", url=URL, reason="HTTP 410 Gone"))
    [info] = client.call(ListWebhooks())
    assert info.disabled == "HTTP 410 Gone"
    client.harness.do(inputs.Call(client.connection, 9, DisableWebhook(name="other", url=URL, reason="x")))
    assert_refused(client, NotFound, "other")
    harness.flush()
    harness.restart()
    client = harness.connect(None)
    [info] = client.call(ListWebhooks())
    assert (info.disabled, info.cloudevents) == ("HTTP 410 Gone", "binary")
    assert client.call(put()).disabled == ""


def test_a_record_from_before_it_could_be_disabled_is_read() -> None:
    former = msgspec.msgpack.encode((URL, "orders", "#", "latest", SECRET, 8, 15_000, 1))
    read = msgspec.msgpack.decode(former, type=WebhookRecord)
    assert (read.created, read.cloudevents, read.disabled) == (1, None, "")


def test_a_deleted_one_is_gone_after_a_restart_too() -> None:
    harness, client = connected()
    client.call(put())
    client.call(DeleteWebhook(name="shop"))
    harness.restart()
    assert harness.broker.state.webhooks == {}


def test_who_posts_is_told_once_a_change_is_durable_and_answered() -> None:
    harness, client = connected()
    harness.store_is_held = True
    harness.do(inputs.Call(client.connection, 7, put()))
    assert 7 not in client.answers
    assert not harness.webhook_changes
    harness.store_is_held = False
    harness.commit()
    assert isinstance(client.answers[7], WebhookInfo)
    assert harness.webhook_changes == 1


def test_what_the_store_does_not_take_is_refused() -> None:
    harness, client = connected()
    harness.store_is_held = True
    harness.do(inputs.Call(client.connection, 7, put()))
    harness.refuse()
    assert_refused(client, StoreUnavailable)


@pytest.mark.parametrize(
    ("client_id", "options", "told"),
    [
        (None, {"event": "created"}, "filter orders/created, not orders/#"),
        (None, {"shared": True}, "is shared"),
        ("billing", {}, "belongs to client 'billing'"),
    ],
)
def test_one_that_could_not_read_the_subscription_that_there_is_is_refused(
    client_id: str | None, options: dict[str, Any], told: str
) -> None:
    harness, client = connected()
    harness.connect(client_id).subscribe("orders", name="shop", **options)
    harness.do(inputs.Call(client.connection, 7, put()))
    assert_refused(client, SubscriptionConflict, told)
    assert client.call(ListWebhooks()) == []


def test_a_new_one_needs_a_secret_and_another_filter_is_another_webhook() -> None:
    _, client = connected()
    client.harness.do(inputs.Call(client.connection, 7, put(secret=None)))
    assert_refused(client, InvalidOption, "secret")
    client.call(put())
    client.harness.do(inputs.Call(client.connection, 8, put(event="created")))
    assert_refused(client, SubscriptionConflict, "orders/#")
    client.harness.do(inputs.Call(client.connection, 9, DeleteWebhook(name="other")))
    assert_refused(client, NotFound, "other")


def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WEBHOOKS_MAX", 2)
    _, client = connected()
    client.call(put("a"))
    client.call(put("b"))
    client.call(put("b"))
    client.harness.do(inputs.Call(client.connection, 7, put("c")))
    assert_refused(client, LimitReached, "2")
