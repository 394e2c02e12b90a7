"""Schedules: a message is published at its time, once, whatever happens in between."""

from asyncio import run
from typing import Any

import pytest

from tests.unit.broker.harness import START_MS, Client, Harness, assert_refused
from tidings import limits
from tidings.broker import effects, inputs
from tidings.calls import CancelSchedule, ListSchedules, Schedule
from tidings.errors import (
    DiskFull,
    InvalidName,
    InvalidOption,
    NotFound,
    PayloadTooLarge,
    StoreUnavailable,
    SystemQueue,
    TidingsError,
)


def schedule(client: Client, payload: bytes = b"x", *, queue: str = "orders", **options: Any) -> str:
    """Schedules a message and returns its handle."""
    info = client.call(Schedule(queue=queue, event="created", payload=payload, **options))
    assert info is not None, client.refusals
    return str(info.handle)


def payloads(harness: Harness, queue: str = "orders") -> list[bytes]:
    return [payload for _, payload in harness.stored(queue)] if queue in harness.broker.state.queues else []


def overtaken(harness: Harness) -> inputs.RecordsRead:
    """Lets what is due be published, and returns what was read before that for the cancelling of it."""
    [publishing] = [read for read in harness.reads if isinstance(read, effects.ListRecords)]
    [cancelling] = [read for read in harness.reads if isinstance(read, effects.ReadRecords)]
    found = [harness.store._records.get(key) for key in cancelling.keys]
    harness.reads = [publishing]
    harness.answer_reads()
    return inputs.RecordsRead(cancelling.ticket, found)


def test_a_message_is_published_at_its_time_and_not_before() -> None:
    harness = Harness()
    client = harness.connect()
    schedule(client, b"later", delay_ms=60_000)
    schedule(client, b"sooner", at_ms=START_MS + 59_000)
    harness.advance(58_999)
    assert payloads(harness) == []
    harness.advance(1)
    assert payloads(harness) == [b"sooner"]
    harness.advance(1_000)
    assert payloads(harness) == [b"sooner", b"later"]
    harness.advance(10 * 60_000)
    assert payloads(harness) == [b"sooner", b"later"]


def test_a_time_that_is_past_means_at_once() -> None:
    harness = Harness()
    schedule(harness.connect(), at_ms=0)
    harness.advance(0)
    assert payloads(harness) == [b"x"]


def test_it_keeps_id_key_headers_and_content_type() -> None:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe("orders")
    schedule(client, content_type="text/plain", id="i", key="k", headers={"a": "b"}, delay_ms=5)
    schedule(client, id="i", delay_ms=6)
    harness.advance(5)
    (deliver,) = client.deliveries
    (run,) = deliver.rows[0].batch.runs
    assert (run.event, run.content_type, run.flags) == ("created", "text/plain", 7)
    harness.advance(1)
    assert len(payloads(harness)) == 1, "the second one has the id of the first"


def carried_out(harness: Harness) -> list[inputs.Input]:
    """Returns the answers to all reads that were ordered, as the store is now, for them to come later."""
    found: list[inputs.Input] = []
    for read in harness.reads:
        if isinstance(read, effects.ListRecords):
            records = run(harness.store.list(read.prefix, read.after, read.limit_bytes))
            found.append(inputs.RecordsListed(read.ticket, records))
        elif isinstance(read, effects.ReadRecords):
            found.append(inputs.RecordsRead(read.ticket, [harness.store._records.get(key) for key in read.keys]))
    harness.reads.clear()
    return found


def test_what_follows_one_that_is_cancelled_while_it_is_read_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCHEDULES_READ_BYTES", 1)  # a look brings one
    harness = Harness()
    client = harness.connect()
    harness.advance(0)  # from now on it knows of all
    handles = [schedule(client, payload, delay_ms=1_000 + index) for index, payload in enumerate((b"a", b"b", b"c"))]
    harness.reads_are_held = True
    harness.advance(1_000)
    answers = carried_out(harness)
    harness.do(inputs.Call(client.connection, 77, CancelSchedule(handle=handles[0])))
    for answer in carried_out(harness):
        harness.do(answer)
    for _ in range(10):
        harness.advance(1)
        answers += carried_out(harness)
        if answers:
            harness.do(answers.pop(0))
    harness.reads_are_held = False
    harness.advance(60_000)
    assert payloads(harness) == [b"b", b"c"]


@pytest.mark.parametrize("steps", range(6))
def test_it_survives_a_crash_at_any_moment_and_is_published_once(steps: int) -> None:
    harness = Harness()
    schedule(harness.connect(), delay_ms=1_000)
    harness.reads_are_held = harness.store_is_held = True
    harness.advance(1_000)
    for step in range(steps):
        if step % 2 == 0:
            harness.answer_reads()
        elif harness.under_way is not None:
            harness.commit()
    harness.reads_are_held = harness.store_is_held = False
    for _ in range(2):
        harness.restart()
        harness.advance(10_000)
        assert payloads(harness) == [b"x"]


@pytest.mark.parametrize("answered", range(4))
def test_one_that_is_found_before_its_transaction_has_ended_is_published_once(answered: int) -> None:
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = harness.reads_are_held = True
    harness.advance(0)  # it looks what there is
    harness.do(inputs.Call(client.connection, 77, Schedule(queue="orders", event="created", payload=b"x")))
    assert harness.under_way is not None
    run(harness.store.commit(harness.under_way))  # which it is not told yet
    for _ in range(answered):
        harness.answer_reads()
        harness.advance(1)
    harness.under_way = None
    harness.do(inputs.Committed())
    for _ in range(4):
        harness.advance(1)
        harness.answer_reads()
    harness.store_is_held = harness.reads_are_held = False
    if harness.under_way is not None:
        harness.commit()
    harness.advance(60_000)
    assert payloads(harness) == [b"x"]


def test_a_refused_transaction_is_made_up_for() -> None:
    harness = Harness()
    schedule(harness.connect(), delay_ms=1_000, every_ms=60_000)
    harness.store_is_held = True
    harness.advance(1_000)
    harness.refuse()
    harness.store_is_held = False
    harness.commit()
    harness.advance(1_000)
    assert payloads(harness) == [b"x"]
    harness.advance(60_000)
    assert payloads(harness) == [b"x", b"x"]


def test_it_is_published_although_its_queue_is_deleted_before_a_transaction_is_refused() -> None:
    harness = Harness()
    client = harness.connect()
    client.publish("orders", "created")
    schedule(client, b"due", delay_ms=1_000)
    harness.store_is_held = True
    harness.advance(1_000)
    client.delete("queue", "orders")
    assert payloads(harness) == []
    harness.refuse()
    harness.store_is_held = False
    harness.advance(1_000)
    assert payloads(harness) == [b"due"]


def test_one_that_was_not_stored_is_refused_and_never_published() -> None:
    harness = Harness()
    client = harness.connect()
    harness.store_is_held = True
    client.call(Schedule(queue="orders", event="created", payload=b"x", delay_ms=1))
    harness.refuse("no space", full=True)
    harness.store_is_held = False
    if harness.under_way is not None:
        harness.commit()
    assert_refused(client, DiskFull, "no space")
    harness.advance(60_000)
    assert payloads(harness) == []
    assert client.call(ListSchedules()) == []


def test_a_recurring_one_keeps_its_rhythm_and_makes_up_once_for_downtime() -> None:
    harness = Harness()
    schedule(harness.connect(), delay_ms=500, every_ms=10_000)
    for _ in range(3):
        harness.advance(10_000)
    assert len(payloads(harness)) == 3
    harness.now_ms += 45_000  # the server is down
    harness.restart()
    harness.advance(0)
    assert len(payloads(harness)) == 4
    harness.advance(5_499)
    assert len(payloads(harness)) == 4
    harness.advance(1)
    assert len(payloads(harness)) == 5


def test_what_is_cancelled_is_not_published() -> None:
    harness = Harness()
    client = harness.connect()
    once, often = schedule(client, delay_ms=1_000), schedule(client, b"often", delay_ms=1_000, every_ms=5_000)
    client.call(CancelSchedule(handle=once))
    harness.advance(11_000)
    assert payloads(harness) == [b"often"] * 3
    client.call(CancelSchedule(handle=often))
    assert client.refusals == []
    harness.advance(60_000)
    assert payloads(harness) == [b"often"] * 3
    for handle in (once, often, "1-2"):
        client.call(CancelSchedule(handle=handle))
        assert_refused(client, NotFound, handle)


def test_one_that_is_cancelled_while_it_is_read_is_not_published() -> None:
    harness = Harness()
    client = harness.connect()
    handle = schedule(client, delay_ms=1_000)
    harness.reads_are_held = True
    harness.advance(999)
    harness.do(inputs.Call(client.connection, 77, CancelSchedule(handle=handle)))
    harness.advance(1)
    harness.reads_are_held = False
    harness.answer_reads()
    assert 77 in client.answers
    harness.advance(60_000)
    assert payloads(harness) == []


def test_who_cancels_what_is_published_meanwhile_is_told() -> None:
    harness = Harness()
    client = harness.connect()
    handle = schedule(client, delay_ms=1_000)
    harness.advance(0)
    harness.reads_are_held = True
    harness.advance(1_000)
    harness.do(inputs.Call(client.connection, 77, CancelSchedule(handle=handle)))
    found = overtaken(harness)
    assert payloads(harness) == [b"x"]
    harness.do(found)
    harness.reads_are_held = False
    harness.answer_reads()
    assert 77 not in client.answers
    assert_refused(client, NotFound, handle)


def test_who_cancels_what_is_being_published_is_told() -> None:
    harness = Harness()
    client = harness.connect()
    handle = schedule(client, delay_ms=1_000)
    harness.store_is_held = True
    harness.advance(1_000)
    harness.reads_are_held = True
    harness.do(inputs.Call(client.connection, 77, CancelSchedule(handle=handle)))
    (cancelling,) = (read for read in harness.reads if isinstance(read, effects.ReadRecords))
    harness.reads.clear()
    found = inputs.RecordsRead(cancelling.ticket, [harness.store._records.get(key) for key in cancelling.keys])
    harness.store_is_held = harness.reads_are_held = False
    harness.settle()
    assert payloads(harness) == [b"x"]
    harness.do(found)
    assert 77 not in client.answers
    assert_refused(client, NotFound, handle)


def test_what_recurs_is_cancelled_although_it_is_published_meanwhile() -> None:
    harness = Harness()
    client = harness.connect()
    handle = schedule(client, delay_ms=1_000, every_ms=5_000)
    harness.advance(0)
    harness.reads_are_held = True
    harness.advance(1_000)
    harness.do(inputs.Call(client.connection, 77, CancelSchedule(handle=handle)))
    found = overtaken(harness)
    harness.do(found)
    harness.reads_are_held = False
    harness.answer_reads()
    assert 77 in client.answers
    harness.advance(60_000)
    assert payloads(harness) == [b"x"]


def test_that_one_is_cancelled_already_is_told_once_that_is_durable() -> None:
    harness = Harness()
    client = harness.connect()
    handle = schedule(client, delay_ms=60_000)
    harness.store_is_held = True
    for request in (77, 78):
        harness.do(inputs.Call(client.connection, request, CancelSchedule(handle=handle)))
    harness.refuse()
    assert_refused(client, StoreUnavailable)
    harness.commit()
    assert_refused(client, NotFound)


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_recurring_one_that_was_missed_can_be_cancelled_before_and_after_what_is_due_is_read(is_listed: bool) -> None:
    harness = Harness()
    handle = schedule(harness.connect(), delay_ms=1_000, every_ms=5_000)
    harness.now_ms += 60_000
    harness.restart()
    harness.reads_are_held = True
    harness.advance(0)
    if is_listed:
        harness.answer_reads()
    client = harness.connect()
    harness.do(inputs.Call(client.connection, 77, CancelSchedule(handle=handle)))
    harness.reads_are_held = False
    harness.settle()
    assert 77 in client.answers
    harness.advance(60_000)
    assert len(payloads(harness)) <= 1


@pytest.mark.parametrize("is_refused", [True, False])
def test_a_recurring_one_that_was_missed_can_be_cancelled_while_it_is_published(is_refused: bool) -> None:
    harness = Harness()
    handle = schedule(harness.connect(), delay_ms=1_000, every_ms=5_000)
    harness.now_ms += 60_000
    harness.restart()
    client = harness.connect()
    harness.store_is_held = True
    for _ in range(2):
        harness.advance(0)  # it is found, and read
    assert harness.under_way is not None
    if is_refused:
        harness.refuse()
    harness.do(inputs.Call(client.connection, 77, CancelSchedule(handle=handle)))
    harness.store_is_held = False
    harness.commit()
    assert 77 in client.answers, client.refusals
    harness.advance(60_000)
    assert payloads(harness) == [b"x"]


def test_they_are_listed_next_first_and_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCHEDULES_READ_BYTES", 100)
    harness = Harness()
    client = harness.connect()
    handles = [schedule(client, delay_ms=delay_ms) for delay_ms in (500_000, 300_000, 100_000, 400_000, 200_000)]
    listed: list[Any] = []
    while page := client.call(ListSchedules(after=listed[-1].handle if listed else "")):
        listed += page
    assert [info.at - START_MS for info in listed] == [100_000, 200_000, 300_000, 400_000, 500_000]
    assert {info.handle for info in listed} == set(handles)
    assert (listed[0].queue, listed[0].event, listed[0].every_ms) == ("orders", "created", None)


def test_more_than_memory_holds_are_all_published_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCHEDULES_KNOWN_MAX", 4)
    monkeypatch.setattr(limits, "SCHEDULES_READ_BYTES", 150)
    monkeypatch.setattr(limits, "SCHEDULES_STEP_COUNT", 3)
    harness = Harness()
    client = harness.connect()
    for number in [(number * 37) % 101 for number in range(1, 101)]:
        schedule(client, b"%03d" % number, delay_ms=number * 100)
    assert len(harness.broker._schedules._known) <= 2 * limits.SCHEDULES_KNOWN_MAX
    harness.advance(5_000)
    for number in (20, 70):  # among those that are known, and behind them
        schedule(client, b"late", delay_ms=number * 100 + 1)
    harness.advance(20_000)
    found = payloads(harness)
    assert [payload for payload in found if payload != b"late"] == [b"%03d" % number for number in range(1, 101)]
    assert found.count(b"late") == 2


def test_below_the_disk_reserve_they_wait() -> None:
    harness = Harness()
    client = harness.connect()
    schedule(client, delay_ms=1_000)
    harness.do(inputs.DiskSpace(0))
    client.call(Schedule(queue="orders", event="created", payload=b"y", delay_ms=1))
    assert_refused(client, DiskFull, "reserve")
    harness.advance(30_000)
    assert payloads(harness) == []
    harness.do(inputs.DiskSpace(limits.DISK_RESERVE_BYTES))
    harness.advance(2_000)
    assert payloads(harness) == [b"x"]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"queue": "$presence"}, SystemQueue),
        ({"queue": "a b"}, InvalidName),
        ({"event": "*"}, InvalidName),
        ({"payload": bytes(limits.PAYLOAD_SIZE_BYTES_MAX + 1)}, PayloadTooLarge),
        ({"headers": {"a": "b" * limits.HEADERS_SIZE_BYTES_MAX}}, PayloadTooLarge),
        ({"headers": {str(number): "" for number in range(65)}}, InvalidOption),
        ({"id": ""}, InvalidOption),
        ({"key": "k" * 256}, InvalidOption),
        ({"content_type": ""}, InvalidOption),
        ({"every_ms": 999}, InvalidOption),
        ({"delay_ms": -1}, InvalidOption),
        ({"at_ms": -1}, InvalidOption),
        ({"at_ms": 10**13}, InvalidOption),
        ({"at_ms": 1, "delay_ms": 1}, InvalidOption),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else case.__name__,
)
def test_what_could_not_be_published_is_refused_at_once(wrong: dict[str, Any], error: type[TidingsError]) -> None:
    client = Harness().connect()
    client.call(Schedule(**({"queue": "orders", "event": "created", "payload": b"x"} | wrong)))
    assert_refused(client, error)


@pytest.mark.parametrize("handle", ["", "x", "1", "1-2-3-4", "-1-2", "1--2"])
def test_a_malformed_handle_is_refused(handle: str) -> None:
    client = Harness().connect()
    client.call(CancelSchedule(handle=handle))
    assert_refused(client, InvalidOption, "handle")


def test_one_look_brings_all_that_are_due() -> None:
    harness = Harness()
    client = harness.connect()
    for number in range(100):
        schedule(client, b"%d" % number, delay_ms=1_000 + number // 10)
    harness.reads_are_held = True
    harness.advance(2_000)
    assert len(harness.reads) == 1
    harness.reads_are_held = False
    harness.answer_reads()
    harness.advance(0)
    assert payloads(harness) == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize("cancelled", [0, 1, 5, 9])
def test_more_than_one_look_brings_come_with_the_next_ones(cancelled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness()
    client = harness.connect()
    harness.advance(0)  # from now on it knows of all
    handles = [schedule(client, b"%d" % number, delay_ms=1_000) for number in range(10)]
    monkeypatch.setattr(limits, "SCHEDULES_READ_BYTES", 1)
    harness.reads_are_held = True
    harness.advance(1_000)
    client.call(CancelSchedule(handle=handles[cancelled]))
    for _ in range(50):
        harness.answer_reads()
        harness.advance(1)
    expected = [b"%d" % number for number in range(10) if number != cancelled]
    assert [payload for payload in payloads(harness) if payload != b"%d" % cancelled] == expected
    assert payloads(harness).count(b"%d" % cancelled) <= 1  # the look was under way when it was cancelled
    harness.reads_are_held = False
    harness.restart()
    harness.advance(60_000)
    assert len(payloads(harness)) <= 10


def test_few_that_are_not_due_are_read() -> None:
    harness = Harness()
    client = harness.connect()
    harness.advance(0)
    for number in range(100):
        schedule(client, bytes(1_000), delay_ms=1_000 + number * 100)
    read: list[int] = []
    harness.reads_are_held = True
    for _ in range(20):
        harness.advance(100)
        read += [each.limit_bytes for each in harness.reads if isinstance(each, effects.ListRecords)]
        harness.answer_reads()
    assert len(payloads(harness)) >= 10
    assert max(read) < 3_000
