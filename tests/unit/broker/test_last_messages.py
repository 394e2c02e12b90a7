"""Subscriptions that begin with the last message of each event."""

from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_delivered, assert_refused, batch_of
from tidings import limits
from tidings.broker import inputs
from tidings.broker.effects import ReadRows
from tidings.calls import Call, ConfigureSubscription, DeleteMessage, Pause, Purge, Seek
from tidings.errors import LimitReached, Refused
from tidings.model import HeaderFilter
from tidings.transaction import Damage


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a few messages take several pages."""
    monkeypatch.setattr(limits, "FETCH_SIZE_BYTES", 20)


def filled(*batches: str) -> tuple[Harness, Client]:
    """Returns a harness whose queue holds batches of events, each named by a letter, and a client."""
    harness = Harness()
    client = harness.connect("reader")
    for events in batches:
        client.publish("orders", *events)
    return harness, client


@pytest.mark.parametrize(
    ("event", "expected"),
    [("#", [4, 8, 9, 10]), ("a", [4]), ("b", [10]), ("*", [4, 8, 9, 10]), ("none", []), ("a.#", [4])],
)
@pytest.mark.parametrize("window", [1, 2, 3, 1000])
def test_the_last_message_of_each_event_and_then_what_follows(
    event: str, expected: list[int], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.broker.last_messages._WINDOW_COUNT", window)
    _, client = filled("ab", "a", "ab", "cc", "cd", "b")
    client.subscribe("orders", event, start="last")
    messages = assert_delivered(client, "orders", expected)
    assert not any(message.redelivered for message in messages)
    client.publish("orders", "a", "b")
    assert [message.sequence for message in client.take()] == [
        sequence for sequence, name in ((11, "a"), (12, "b")) if event in ("#", "*", name) or event == f"{name}.#"
    ]
    for sequence in (*expected, 11, 12):
        client.ack(1, sequence)
    info = client.subscriptions()[f"reader:orders/{event}"]
    assert (info.cursor, info.lag, info.in_flight) == (12, 0, 0)


def test_one_event_is_looked_for_from_the_end_and_no_further_than_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.broker.last_messages._WINDOW_COUNT", 10)
    harness, client = filled(*["ab"] * 50)
    harness.reads_are_held = True
    for event, looked_at in (("a", [90, 92, 94, 96, 98]), ("c", range(100))):
        client.subscribe("orders", event, start="last")
        looked: list[int] = []
        while harness.reads:
            looked += [read.after for read in harness.reads if isinstance(read, ReadRows)]
            harness.answer_reads()
        assert looked
        assert set(looked) <= set(looked_at)
        assert min(looked) == looked_at[0]
    assert_delivered(client, "orders", [99])


@pytest.mark.parametrize("page_bytes", [20, 100_000])
def test_what_is_published_while_it_is_looked_for_comes_after_and_once(
    page_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FETCH_SIZE_BYTES", page_bytes)
    harness, client = filled("ab", "a")
    harness.reads_are_held = True
    client.subscribe("orders", start="last")
    client.publish("orders", "a", "c")
    assert not client.take()
    assert not client.subscribed
    while harness.reads:
        harness.answer_reads()
        client.publish("orders", "a") if len(client.confirms) < 6 else None
    harness.reads_are_held = False
    harness.settle()
    sequences = [message.sequence for message in client.take()]
    assert sequences == [2, 3, *range(4, harness.broker.state.queues["orders"].committed + 1)]


def test_an_empty_queue_is_live_at_once() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders", start="last")
    client.publish("orders", "a", "a")
    assert_delivered(client, "orders", [1, 2])


def test_by_headers_it_is_the_last_that_is_wanted() -> None:
    _, client = filled()
    regions: list[dict[str, str] | None] = [{"region": value} for value in ("eu", "us", "eu", "us")]
    client.publish("orders", "a", "a", "b", "b", headers=regions)
    client.subscribe("orders", start="last", headers=[HeaderFilter("region", ("eu",))])
    assert_delivered(client, "orders", [1, 3])


def test_each_queue_of_a_pattern_begins_with_its_own_and_later_ones_from_the_beginning() -> None:
    _, client = filled("aab")
    client.publish("bills", "a", "a")
    client.subscribe("*", start="last")
    client.publish("later", "a", "a")
    got = sorted((message.queue, message.sequence) for message in client.take())
    assert got == [("bills", 2), ("later", 1), ("later", 2), ("orders", 2), ("orders", 3)]


@pytest.mark.parametrize("delivered", [False, True])
def test_what_was_not_acked_before_a_restart_comes_again_and_nothing_else(delivered: bool) -> None:
    harness, client = filled("aab", "abc")
    options: dict[str, Any] = {"in_flight_max": 1} if not delivered else {}
    client.subscribe("orders", start="last", **options)
    assert client.take()[0].sequence == 4
    client.ack(1, 4)
    harness.flush()
    harness.restart()
    harness.connect().publish("orders", "d")
    client = harness.connect("reader")
    client.subscribe("orders", start="last", in_flight_max=10)
    assert_delivered(client, "orders", [5, 6, 7])


def test_a_crash_before_it_is_placed_leaves_nothing_behind() -> None:
    harness, client = filled("aab")
    harness.reads_are_held = True
    client.subscribe("orders", start="last")
    harness.flush()
    harness.restart()
    client = harness.connect("reader")
    assert not client.subscriptions()
    harness.reads_are_held = False
    client.subscribe("orders", start="last")
    assert_delivered(client, "orders", [2, 3])


@pytest.mark.parametrize(
    "call",
    [
        Pause(subscription="reader:orders/#"),
        ConfigureSubscription(name="reader:orders/#", attempts_max=3),
        Seek(subscription="reader:orders/#", to="latest"),
    ],
    ids=lambda call: type(call).__name__,
)
def test_it_is_not_changed_nor_written_before_it_is_placed(call: Call) -> None:
    harness, client = filled("aab")
    harness.reads_are_held = True
    client.subscribe("orders", start="last")
    client.call(call)
    assert_refused(client, Refused, "just being made")
    harness.flush()
    harness.restart()
    harness.reads_are_held = False
    client = harness.connect("reader")
    client.subscribe("orders", start="last")
    assert_delivered(client, "orders", [2, 3])


@pytest.mark.parametrize("got", [0, 1, 2, 3])
def test_an_ephemeral_one_that_comes_back_gets_the_rest_and_nothing_twice(got: int) -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders", *"aabbc")
    client.subscribe("orders", start="last", in_flight_max=max(got, 1))
    received = [message.sequence for message in client.take()][:got]
    assert received == [2, 4, 5][:got]
    ((_, begin_to),) = client.subscribed[1].places
    client.disconnect()
    client = harness.connect()
    client.publish("orders", *"ad")
    place = inputs.Resume(harness.epoch("orders"), received[-1] if received else 0, [], begin_to)
    client.subscribe("orders", start="last", resume=[place])
    assert received + [message.sequence for message in client.take()] == [2, 4, 5, 6, 7]


def test_what_cannot_be_read_may_have_been_the_last_and_is_told_in_its_place() -> None:
    harness, client = filled("ab", "c")
    harness.reads_are_held = True
    client.subscribe("orders", start="last")
    for _ in range(20):
        reads, harness.reads = harness.reads, []
        for read in reads:
            if isinstance(read, ReadRows):
                rows = [Damage(1, 2, "damaged")] if read.after < 2 else []
                harness._handle(inputs.RowsRead(read.ticket, [*rows, *_rest(harness, max(read.after, 2))]))
            else:
                harness._handle(
                    inputs.Fetched(read.subscription, read.epoch, [Damage(1, 2, "damaged"), *_rest(harness, 2)])  # type: ignore[union-attr]
                )
        harness.settle()
    (gap,) = client.gaps
    assert (gap.first_sequence, gap.last_sequence, gap.reason) == (1, 2, "damaged")
    assert_delivered(client, "orders", [3])


def _rest(harness: Harness, after: int) -> list[Any]:
    from tests.unit.broker.harness import _now

    return list(_now(harness.store.read(harness.epoch("orders"), after, 10_000)))


def test_more_events_than_are_kept_in_memory_are_refused_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LAST_EVENTS_MAX", 3)
    _, client = filled("ab", "cd")
    client.subscribe("orders", start="last")
    assert_refused(client, LimitReached, "more than 3 events", "orders/#")
    assert not client.subscriptions()
    client.subscribe("orders", "a", start="last")
    assert_delivered(client, "orders", [1], handle=2)


def test_few_searches_are_under_way_at_a_time_and_all_come_to_their_end() -> None:
    harness, client = filled(*["ab"] * 10)
    harness.reads_are_held = True
    for number in range(20):
        client.subscribe("orders", name=f"s{number}", start="last")
    most = 0
    while harness.reads:
        most = max(most, sum(isinstance(read, ReadRows) for read in harness.reads))
        harness.answer_reads()
    assert most == 4
    for handle in range(1, 21):
        assert_delivered(client, "orders", [19, 20], handle)


def test_it_can_be_moved_and_nacked_like_any_other() -> None:
    harness, client = filled("aab")
    client.subscribe("orders", start="last")
    assert_delivered(client, "orders", [2, 3])
    client.nack(1, 2)
    harness.advance(10)
    (again,) = assert_delivered(client, "orders", [2])
    assert again.redelivered
    client.call(Seek(subscription="reader:orders/#", to="earliest"))
    assert_delivered(client, "orders", [1, 2, 3])


def test_its_messages_are_not_trimmed_while_they_are_looked_for_and_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_AGE_MS", 0)
    harness, client = filled("ab", "ab")
    harness.reads_are_held = True
    client.subscribe("orders", start="last")
    harness.reads_are_held = False
    client.disconnect()
    harness.settle()
    client = harness.connect("reader")
    client.subscribe("orders", start="last", in_flight_max=1)
    assert_delivered(client, "orders", [3])
    harness.advance(20_000)
    client.ack(1, 3)
    assert_delivered(client, "orders", [4])
    assert not client.gaps


@pytest.mark.parametrize("event", ["#", "a"])
def test_a_message_that_was_deleted_is_not_the_last_of_its_event(event: str) -> None:
    _, client = filled("ab", "aab")
    client.call(DeleteMessage(queue="orders", sequence=4))
    client.subscribe("orders", event, start="last")
    assert_delivered(client, "orders", [3] if event == "a" else [3, 5])
    assert not client.gaps


def test_what_was_purged_is_not_looked_for() -> None:
    _, client = filled("ab", "c")
    client.call(Purge(queue="orders"))
    client.publish("orders", "d")
    client.subscribe("orders", start="last")
    assert_delivered(client, "orders", [4])
    assert not client.gaps


def test_queues_that_were_purged_do_not_let_it_begin_before_the_others_are_looked_through() -> None:
    harness = Harness()
    client = harness.connect("reader")
    for queue in ("a", "b"):
        client.publish(queue, "x", "y", "x")
    client.call(Purge(queue="a"))
    harness.reads_are_held = True
    client.subscribe("*", start="last")
    assert client.subscribed == {}, "it is not placed yet"
    harness.reads_are_held = False
    harness.answer_reads()
    assert [(message.queue, message.sequence) for message in client.take()] == [("b", 2), ("b", 3)]


def test_thousands_of_queues_are_let_go_of_when_whoever_asked_is_gone() -> None:
    harness = Harness()
    publisher, reader = harness.connect(), harness.connect("reader")
    for number in range(600):
        harness.broker.handle(inputs.Publish(publisher.connection, number + 1, number, f"q{number}", batch_of("a")), 0)
    harness.settle()
    harness.reads_are_held = True
    reader.subscribe("#", start="last")
    reader.disconnect()
    harness.answer_reads()
    harness.reads_are_held = False
    assert harness.broker.state.subscriptions == {}
    reader = harness.connect("reader")
    reader.subscribe("q0", start="last")
    assert_delivered(reader, "q0", [1])
