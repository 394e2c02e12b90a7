"""Metrics for Prometheus: rates, latencies, lag, in flight, connections, transactions, disk.

Counters come from the node; what is true at this moment is asked of the broker when somebody looks.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tidings import limits
from tidings.gateways.http.door import Door
from tidings.model import QueueInfo, SubscriptionInfo
from tidings.node import Conversation, Histogram, Node

_BY_SUBSCRIPTION: Final = ("subscription", "queue")


@get("/metrics", tags=["server"], summary="Metrics for Prometheus", media_type=CONTENT_TYPE_LATEST)
async def metrics(door: NamedDependency[Door]) -> Response[bytes]:
    """Answers in the text format of Prometheus.

    Of more than 1,000 queues or subscriptions the first are told one by one; sums count all of them.
    """
    clerk = await door.clerk()
    families = [*_of_node(door.node), *await _of_queues(clerk), *await _of_subscriptions(clerk), *_of_requests(door)]
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Families(families))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_node(node: Node) -> Iterator[Metric]:
    found = node.metrics
    yield CounterMetricFamily("tidings_published_messages", "Messages stored.", value=found.published)
    yield CounterMetricFamily("tidings_published_bytes", "Bytes of messages stored.", value=found.published_bytes)
    yield CounterMetricFamily("tidings_delivered_messages", "Messages sent to subscribers.", value=found.delivered)
    yield CounterMetricFamily("tidings_refused_commits", "Transactions not stored.", value=found.refused_commits)
    yield _histogram("tidings_round_seconds", "Time in which the server does nothing else.", found.round_seconds)
    yield _histogram("tidings_commit_seconds", "Time of a transaction of the store.", found.commit_seconds)
    yield _histogram(
        "tidings_confirm_seconds", "From publish until stored: the oldest of a transaction.", found.confirm_seconds
    )
    yield GaugeMetricFamily("tidings_connections", "Connections of all doors.", value=node.connections)
    yield GaugeMetricFamily("tidings_unconfirmed_bytes", "Published and not stored yet.", value=node.pending_bytes)
    free_bytes = getattr(node.store, "free_bytes", None)
    if free_bytes is not None:
        yield GaugeMetricFamily("tidings_disk_free_bytes", "Free where the store lives.", value=free_bytes())


async def _of_queues(clerk: Conversation) -> list[Metric]:
    messages = GaugeMetricFamily("tidings_queue_messages", "Messages that a queue holds.", labels=("queue",))
    size_bytes = GaugeMetricFamily("tidings_queue_bytes", "Bytes that a queue holds.", labels=("queue",))
    last = CounterMetricFamily("tidings_queue_published", "Last sequence of a queue.", labels=("queue",))
    count = total = 0
    after = ""
    while True:
        page = await clerk.list("queues", after)
        for info in page.entries:
            assert isinstance(info, QueueInfo)
            count += 1
            total += info.bytes
            if count <= limits.METRICS_SERIES_MAX:
                messages.add_metric((info.name,), info.messages)
                size_bytes.add_metric((info.name,), info.bytes)
                last.add_metric((info.name,), info.last_sequence)
        if not page.after:
            break
        after = page.after
    sums = [
        GaugeMetricFamily("tidings_queues", "Queues.", value=count),
        GaugeMetricFamily("tidings_stored_bytes", "Bytes that all queues hold.", value=total),
    ]
    return [messages, size_bytes, last, *sums]


async def _of_subscriptions(clerk: Conversation) -> list[Metric]:
    lag = GaugeMetricFamily("tidings_subscription_lag", "Messages after the cursor.", labels=_BY_SUBSCRIPTION)
    in_flight = GaugeMetricFamily("tidings_subscription_in_flight", "Sent, not settled.", labels=_BY_SUBSCRIPTION)
    retrying = GaugeMetricFamily("tidings_subscription_retrying", "Waiting for a retry.", labels=_BY_SUBSCRIPTION)
    connected = GaugeMetricFamily("tidings_subscription_connected", "Is somebody there.", labels=_BY_SUBSCRIPTION)
    dead = GaugeMetricFamily("tidings_subscription_dead_letters", "Messages given up.", labels=("subscription",))
    count = flying = 0
    names: set[str] = set()
    after = ""
    while True:
        page = await clerk.list("subscriptions", after)
        for info in page.entries:
            assert isinstance(info, SubscriptionInfo)
            count += 1
            flying += info.in_flight
            if count > limits.METRICS_SERIES_MAX:
                continue
            place = (info.name, info.queue)
            lag.add_metric(place, info.lag)
            in_flight.add_metric(place, info.in_flight)
            retrying.add_metric(place, info.retrying)
            connected.add_metric(place, info.connected)
            if info.name not in names:
                names.add(info.name)
                dead.add_metric((info.name,), info.dead)
        if not page.after:
            break
        after = page.after
    sums = [
        GaugeMetricFamily("tidings_cursors", "Subscriptions, once for each of their queues.", value=count),
        GaugeMetricFamily("tidings_in_flight", "Sent and not settled, of all.", value=flying),
    ]
    return [lag, in_flight, retrying, connected, dead, *sums]


def _of_requests(door: Door) -> Iterator[Metric]:
    requests = CounterMetricFamily("tidings_http_requests", "Requests answered.", labels=("method", "status"))
    for (method, status), count in door.answered.items():
        requests.add_metric((method, str(status)), count)
    yield requests
    yield GaugeMetricFamily("tidings_http_connections", "Connections for HTTP.", value=len(door.connections))
    seconds = HistogramMetricFamily(
        "tidings_http_request_seconds", "Until a request was answered; GETs may wait.", labels=("method",)
    )
    for method, histogram in door.seconds.items():
        seconds.add_metric((method,), _buckets(histogram), histogram.sum)
    yield seconds


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, buckets=_buckets(histogram), sum_value=histogram.sum)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Returns counts as Prometheus wants them: of all values up to each bound."""
    found: list[tuple[str, float]] = []
    count = 0
    for bound, more in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        count += more
        found.append((bound, count))
    return found


HANDLERS = [metrics]
