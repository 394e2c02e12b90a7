"""Seeking: a subscription is moved, and gets what comes after that place, once and as if for the first time."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.broker.harness import START_MS, Client, Harness, assert_delivered, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.broker.cursors import State
from tidings.calls import ConfigureQueue, Purge, Redrive, Seek
from tidings.errors import DeliveryTakenAway, InvalidOption, NotFound
from tidings.model import MovedInfo, epoch_of, moves_of, reading_of

NAME = "reader:orders/#"


def attached(queue: str = "orders", event: str = "#", **options: Any) -> tuple[Harness, Client]:
    harness = Harness()
    client = harness.connect("reader")
    client.subscribe(queue, event, **options)
    return harness, client


def reading(harness: Harness, name: str = NAME, queue: str = "orders") -> int:
    return harness.broker.state.subscriptions[name].cursors[harness.epoch(queue)].reading


def ack(client: Client, first: int, last: int, reading: int, handle: int = 1) -> None:
    client.harness.do(inputs.Ack(client.connection, handle, [(reading, first, last)]))


def sequences(client: Client, handle: int = 1) -> list[int]:
    return [message.sequence for message in client.take(handle)]


def test_a_reading_holds_epoch_and_moves_and_is_exact_in_json() -> None:
    assert reading_of(7, 0) == 7
    assert (epoch_of(reading_of(7, 3)), moves_of(reading_of(7, 3))) == (7, 3)
    assert reading_of(2**32 - 1, 2**20 - 1) < 2**53
    assert reading_of(7, 2**20) == 7, "it begins anew rather than grow"


@pytest.mark.parametrize("durable", [True, False])
def test_back_delivers_again_what_was_acked_and_then_live(durable: bool) -> None:
    harness = Harness()
    client = harness.connect("reader" if durable else None)
    client.subscribe("orders")
    name = client.subscribed[1].name
    client.publish("orders", *"abcde")
    assert sequences(client) == [1, 2, 3, 4, 5]
    client.ack(1, 1, 5)
    moved = client.call(Seek(subscription=name, to="sequence", value=3))
    assert moved == [MovedInfo(queue="orders", before=5, cursor=2, skipped=0)]
    messages = client.take()
    assert [(message.sequence, message.attempt, message.redelivered) for message in messages] == [
        (3, 1, False),
        (4, 1, False),
        (5, 1, False),
    ]
    client.publish("orders")
    assert sequences(client) == [6]
    ack(client, 3, 6, reading(harness, name))
    assert client.subscriptions()[name].cursor == 6


@pytest.mark.parametrize("goal", ["earliest", "sequence", "time"])
def test_all_of_history_can_be_had_again(goal: str) -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    harness.advance(1_000)
    client.publish("orders", "c")
    client.take()
    client.ack(1, 1, 3)
    value = {"earliest": 0, "sequence": 1, "time": START_MS}[goal]
    client.call(Seek(subscription=NAME, to=goal, value=value))
    assert sequences(client) == [1, 2, 3]


def test_a_time_selects_what_came_then_and_later_and_one_beyond_the_end_is_the_end() -> None:
    harness, client = attached()
    client.publish("orders", "a")
    harness.advance(1_000)
    client.publish("orders", "b")
    client.take()
    client.call(Seek(subscription=NAME, to="time", value=START_MS + 500))
    assert sequences(client) == [2]
    (moved,) = client.call(Seek(subscription=NAME, to="time", value=START_MS + 10**9))
    assert moved.cursor == 2
    client.publish("orders")
    assert sequences(client) == [3]


def test_what_is_stored_while_a_time_is_looked_up_is_not_moved_past() -> None:
    harness, client = attached()
    client.publish("orders", "a")
    client.take()
    harness.reads_are_held = True
    harness.do(inputs.Call(client.connection, 77, Seek(subscription=NAME, to="time", value=START_MS + 500)))
    locate = harness.reads.pop()
    client.publish("orders", "b")
    client.take()
    harness.do(inputs.Located(locate.ticket, None))  # the store had looked before that was stored
    harness.reads_are_held = False
    harness.answer_reads()
    assert sequences(client) == [2]


def test_forward_skips_what_is_unsettled_counts_it_and_tells_no_gap() -> None:
    harness, client = attached(in_flight_max=2)
    client.publish("orders", *"abcdef")
    assert sequences(client) == [1, 2]
    client.ack(1, 1)
    (moved,) = client.call(Seek(subscription=NAME, to="sequence", value=5))
    # 2 and 3 were in flight, 4 was waiting.
    assert (moved.before, moved.cursor, moved.skipped) == (1, 4, 3)
    client.take()
    assert client.gaps == []
    assert client.subscriptions()[NAME].skipped == 3
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert sequences(client) == [5, 6]
    assert client.subscriptions()[NAME].skipped == 3


def test_latest_leaves_everything_behind() -> None:
    harness, client = attached()
    client.disconnect()
    other = harness.connect()
    other.publish("orders", *"abc")
    (moved,) = other.call(Seek(subscription=NAME, to="latest"))
    assert (moved.cursor, moved.skipped) == (3, 3)
    assert other.subscriptions()[NAME].lag == 0
    client = harness.connect("reader")
    client.subscribe("orders")
    other.publish("orders")
    assert sequences(client) == [4]


@pytest.mark.parametrize("event", ["#", "b"])
@pytest.mark.parametrize("restarted", [True, False])
def test_who_is_away_finds_what_was_asked_for_when_it_comes_back(event: str, restarted: bool) -> None:
    harness, client = attached(event=event)
    client.publish("orders", *"abab")
    client.ack(1, 1, max(message.sequence for message in client.take()))
    client.disconnect()
    other = harness.connect()
    other.call(Seek(subscription=f"reader:orders/{event}", to="sequence", value=2))
    if restarted:
        harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders", event)
    assert sequences(client) == [2, 3, 4] if event == "#" else [2, 4]


def test_acks_nacks_and_extensions_of_what_was_delivered_before_are_refused() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.take()
    before = reading(harness)
    client.call(Seek(subscription=NAME, to="earliest"))
    assert sequences(client) == [1, 2]
    ack(client, 1, 2, before)
    assert_refused(client, DeliveryTakenAway, "moved")
    harness.do(inputs.Nack(client.connection, 1, [(before, 1, 1)]))
    assert_refused(client, DeliveryTakenAway, "moved")
    harness.do(inputs.Extend(client.connection, 1, [(before, 1, 1)]))
    assert_refused(client, DeliveryTakenAway, "moved")
    assert client.subscriptions()[NAME].cursor == 0
    assert client.subscriptions()[NAME].in_flight == 2
    ack(client, 1, 2, reading(harness))
    assert client.refusals == []
    assert client.subscriptions()[NAME].cursor == 2


@pytest.mark.parametrize("restarted", [True, False])
def test_what_a_returning_client_acked_before_the_move_settles_nothing(restarted: bool) -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.take()
    before = reading(harness)
    client.disconnect()
    harness.connect().call(Seek(subscription=NAME, to="earliest"))
    if restarted:
        harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders", resume=[inputs.Resume(before, 2, [(1, 2)])])
    assert sequences(client) == [1, 2]
    now = reading(harness)
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders", resume=[inputs.Resume(now, 2, [(1, 1)])])
    assert sequences(client) == [2], "and after the move it does"


def test_a_client_is_told_of_the_move_before_anything_comes_after_it() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.deliveries.clear()
    client.call(Seek(subscription=NAME, to="latest"))
    (told,) = client.deliveries
    assert (told.epoch, told.rows[0].first_sequence, list(told.rows[0].batch.runs)) == (reading(harness), 3, [])


def test_attempts_and_waiting_retries_count_no_more() -> None:
    harness, client = attached(attempts_max=2, backoff_min_ms=1_000, backoff_max_ms=1_000)
    client.publish("orders", "a")
    client.take()
    client.nack(1, 1)
    client.call(Seek(subscription=NAME, to="earliest"))
    (message,) = client.take()
    assert message.attempt == 1
    harness.advance(5_000)
    assert client.take() == [], "its retry was due, but is void"
    harness.do(inputs.Nack(client.connection, 1, [(reading(harness), 1, 1)]))
    assert client.subscriptions()[NAME].dead == 0


def test_dead_letters_stay_and_their_messages_can_be_had_again_and_die_again() -> None:
    harness, client = attached(attempts_max=1)
    client.publish("orders", "a")
    client.take()
    client.nack(1, 1)
    for dead in (1, 2):
        assert client.subscriptions()[NAME].dead == dead
        client.call(Seek(subscription=NAME, to="earliest"))
        assert sequences(client) == [1]
        if dead == 1:
            harness.do(inputs.Nack(client.connection, 1, [(reading(harness), 1, 1)]))
    ack(client, 1, 1, reading(harness))
    assert client.refusals == [], "it is not the dead letter that is acked"
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert client.call(Redrive(subscription=NAME)) == 2
    assert client.subscriptions()[NAME].dead == 0


def test_a_message_on_its_way_to_the_dead_letters_is_void_like_the_others() -> None:
    harness, client = attached(attempts_max=1)
    client.publish("orders", "a")
    client.take()
    harness.reads_are_held = True
    client.nack(1, 1)
    harness.do(inputs.Call(client.connection, 77, Seek(subscription=NAME, to="earliest")))
    harness.reads_are_held = False
    harness.answer_reads()
    assert sequences(client) == [1]
    assert client.subscriptions()[NAME].dead == 0


def test_what_is_trimmed_of_a_move_back_is_told_as_a_gap_also_to_who_is_away() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.ack(1, 1, 2)
    harness.advance(limits.HISTORY_AGE_MS + 60_000)
    client.publish("orders", "c")
    client.take()
    assert harness.broker.state.queues["orders"].first_sequence == 3
    (moved,) = client.call(Seek(subscription=NAME, to="sequence", value=1))
    assert moved.cursor == 2
    assert [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in client.gaps] == [(1, 2, "trimmed")]
    assert client.gaps[0].epoch == reading(harness)
    assert sequences(client) == [3]
    client.disconnect()
    harness.flush()
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert [(gap.first_sequence, gap.last_sequence) for gap in client.gaps] == [(1, 2)]
    ack(client, 1, 3, reading(harness))
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert client.gaps == []
    client.call(Seek(subscription=NAME, to="earliest"))
    assert client.gaps == [], "the earliest there is misses nothing"


def test_gaps_of_what_is_read_again_are_told_no_more_and_those_before_it_are() -> None:
    harness, client = attached(in_flight_max=1)
    client.call(ConfigureQueue(name="orders", waiting_messages=1, when_full="drop-oldest"))
    for each in ("abcd", "ef"):
        client.publish("orders", *each)
        client.ack(1, 1 if each == "abcd" else 4)
    told = [(gap.first_sequence, gap.last_sequence) for gap in client.gaps]
    assert told == [(2, 3), (5, 5)]
    client.call(ConfigureQueue(name="orders", waiting_messages=10))
    client.disconnect()
    harness.connect().call(Seek(subscription=NAME, to="sequence", value=3))
    harness.flush()
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders", in_flight_max=5)
    assert sequences(client) == [3, 4, 5, 6], "they were still there"
    (gap,) = client.gaps
    assert (gap.first_sequence, gap.last_sequence) == (2, 2)
    harness.do(inputs.Ack(client.connection, 1, [(gap.epoch, 2, 2)]))
    assert client.refusals == []
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert client.gaps == []


def test_an_ack_from_before_a_move_does_not_ack_a_gap_after_it() -> None:
    harness, client = attached(in_flight_max=1)
    client.publish("orders", "a", "b", "c")
    before = reading(harness)
    client.call(Seek(subscription=NAME, to="earliest"))
    client.call(Purge(queue="orders"))
    harness.do(inputs.Ack(client.connection, 1, [(before, 1, 3)]))
    assert_refused(client, DeliveryTakenAway)
    client.disconnect()
    client = harness.connect("reader")
    client.subscribe("orders", in_flight_max=1)
    told = [(gap.epoch, gap.first_sequence, gap.last_sequence) for gap in client.gaps]
    assert told == [(reading(harness), 2, 3), (reading(harness), 1, 1)]


def test_a_move_back_while_its_messages_are_being_trimmed_tells_them_as_a_gap() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.ack(1, 1, 2)
    client.take()
    harness.advance(limits.HISTORY_AGE_MS - 1_000)
    harness.store_is_held = True
    harness.advance(60_000)
    while harness.under_way and not harness.under_way.trims:
        harness.commit()
    assert harness.under_way, "the trim is under way"
    harness.do(inputs.Call(client.connection, 77, Seek(subscription=NAME, to="sequence", value=1)))
    assert [(gap.first_sequence, gap.last_sequence) for gap in client.gaps] == [(1, 2)]
    harness.store_is_held = False
    harness.commit()
    harness.restart()
    client = harness.connect("reader")
    client.subscribe("orders")
    assert [(gap.first_sequence, gap.last_sequence) for gap in client.gaps] == [(1, 2)]
    assert client.take() == []


def test_nothing_is_delivered_before_the_move_is_durable_and_a_crash_undoes_it_whole() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.take()
    client.ack(1, 1, 2)
    harness.flush()
    harness.store_is_held = True
    harness.do(inputs.Call(client.connection, 77, Seek(subscription=NAME, to="earliest")))
    ack(client, 1, 1, harness.epoch("orders"))  # whatever comes may lead to deliveries
    assert client.take() == []
    assert 77 not in client.answers
    harness.restart()
    harness.store_is_held = False
    client = harness.connect("reader")
    client.subscribe("orders")
    assert client.take() == []
    assert reading(harness) == harness.epoch("orders")


def test_a_move_that_the_store_refuses_is_answered_so_and_holds_deliveries_until_it_is_stored() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.take()
    harness.flush()
    harness.store_is_held = True
    harness.do(inputs.Call(client.connection, 77, Seek(subscription=NAME, to="earliest")))
    harness.refuse()
    assert [refusal.request for refusal in client.refusals] == [77]
    assert client.take() == []
    harness.store_is_held = False
    harness.commit()
    assert sequences(client) == [1, 2]


def test_one_queue_of_a_pattern_is_moved_and_the_others_are_left_alone() -> None:
    _, client = attached("shop.*")
    for queue in ("shop.a", "shop.b"):
        client.publish(queue, "x", "y")
        client.ack(1, 1, 2, queue=queue)
    client.take()
    name = "reader:shop.*/#"
    (moved,) = client.call(Seek(subscription=name, queue="shop.b", to="earliest"))
    assert moved.queue == "shop.b"
    assert_delivered(client, "shop.b", [1, 2])
    assert {info.queue: info.cursor for info in client.listing("subscriptions")} == {"shop.a": 2, "shop.b": 0}
    assert [moved.queue for moved in client.call(Seek(subscription=name, to="earliest"))] == ["shop.a", "shop.b"]
    assert len(client.take()) == 4


def test_what_others_hold_of_a_shared_subscription_is_void_too() -> None:
    harness = Harness()
    members = [harness.connect(), harness.connect()]
    for member in members:
        member.subscribe("orders", name="team", shared=True)
    members[0].publish("orders", *"abcd")
    before = [sequences(member) for member in members]
    assert sorted(before[0] + before[1]) == [1, 2, 3, 4]
    old = reading(harness, "team")
    members[0].call(Seek(subscription="team", to="sequence", value=2))
    assert sorted(sequences(members[0]) + sequences(members[1])) == [2, 3, 4]
    for member, had in zip(members, before, strict=True):
        ack(member, had[0], had[0], old)
        assert_refused(member, DeliveryTakenAway, "moved")


def test_every_place_of_a_small_queue_from_every_state_delivers_exactly_what_comes_after_it() -> None:
    batches: Sequence[str] = ("a", "bab", "ba")
    for event in ("#", "b"):
        wanted = [place for place, name in enumerate("".join(batches), 1) if event in ("#", name)]
        for acked in range(len(wanted) + 1):
            for goal in range(1, 8):
                for away in (True, False):
                    harness, client = attached(event=event)
                    for batch in batches:
                        client.publish("orders", *batch)
                    assert sequences(client) == wanted
                    for sequence in wanted[:acked]:
                        client.ack(1, sequence)
                    if away:
                        client.disconnect()
                        client = harness.connect("reader")
                    client.call(Seek(subscription=f"reader:orders/{event}", to="sequence", value=goal))
                    if away:
                        client.subscribe("orders", event)
                    assert sequences(client) == [sequence for sequence in wanted if sequence >= goal]
                    client.publish("orders", "b")
                    assert sequences(client) == [7]
                    (cursor,) = harness.broker.state.subscriptions[f"reader:orders/{event}"].cursors.values()
                    assert cursor.state is State.LIVE


def test_where_nobody_can_go_is_refused_with_what_is_there() -> None:
    _, client = attached()
    client.publish("orders", "a", "b")
    for value in (0, 4):
        client.call(Seek(subscription=NAME, to="sequence", value=value))
        assert_refused(client, InvalidOption, "orders", "1 to 3")
    client.call(Seek(subscription=NAME, to="nowhere"))
    assert_refused(client, InvalidOption, "nowhere", "earliest")
    client.call(Seek(subscription="nothing", to="earliest"))
    assert_refused(client, NotFound, "nothing")
    client.call(Seek(subscription=NAME, to="earliest", queue="bills"))
    assert_refused(client, NotFound, "bills")
    client.subscribe("shop.*", name="wide")
    client.call(Seek(subscription="wide", to="sequence", value=1))
    assert_refused(client, InvalidOption, "in which one")
    assert client.call(Seek(subscription="wide", to="earliest")) == []
    assert client.call(Seek(subscription="wide", to="time", value=1)) == []
