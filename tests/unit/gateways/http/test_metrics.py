"""Metrics, read as Prometheus reads them."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tidings import limits

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def samples(http: httpx.AsyncClient) -> Samples:
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


async def test_what_is_published_delivered_and_waits_is_told(http: httpx.AsyncClient) -> None:
    await http.put("/subscriptions/billing", json={"queue": "orders"})
    await http.post("/queues/orders/events/created?batch", json=[1, 2, 3])
    await http.get("/subscriptions/billing/messages", params={"max": 2})
    found = await samples(http)
    place = {"subscription": "billing", "queue": "orders"}
    assert value(found, "tidings_subscription_lag", **place) == 3
    assert value(found, "tidings_subscription_in_flight", **place) == 2
    assert value(found, "tidings_in_flight") == 2
    assert value(found, "tidings_subscription_connected", **place) == 1
    assert value(found, "tidings_subscription_dead_letters", subscription="billing") == 0
    assert value(found, "tidings_delivered_messages_total") == 2
    assert value(found, "tidings_queue_messages", queue="orders") == 3
    assert value(found, "tidings_queue_published_total", queue="orders") == 3
    assert value(found, "tidings_published_messages_total") >= 3
    assert value(found, "tidings_connections") >= 2


async def test_latencies_are_histograms(http: httpx.AsyncClient) -> None:
    await http.post("/queues/orders/events/created", json=1)
    await http.get("/nothing")
    found = await samples(http)
    for name in ("tidings_round_seconds", "tidings_commit_seconds", "tidings_confirm_seconds"):
        count = value(found, f"{name}_count")
        assert count >= 1
        assert value(found, f"{name}_bucket", le="+Inf") == count
        assert value(found, f"{name}_sum") > 0
    assert value(found, "tidings_http_requests_total", method="POST", status="201") == 1
    assert value(found, "tidings_http_requests_total", method="GET", status="404") == 1
    assert value(found, "tidings_http_request_seconds_count", method="POST") == 1


async def test_of_very_many_only_the_first_are_told_one_by_one(http: httpx.AsyncClient, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(limits, "METRICS_SERIES_MAX", 2)
    for name in "abcd":
        await http.put(f"/subscriptions/{name}", json={"queue": "orders"})
    found = await samples(http)
    assert value(found, "tidings_cursors") == 4
    assert [labels for name, labels in found if name == "tidings_subscription_lag"] == [
        (("queue", "orders"), ("subscription", "a")),
        (("queue", "orders"), ("subscription", "b")),
    ]
