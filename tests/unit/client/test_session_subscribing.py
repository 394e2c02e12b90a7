"""The session keeps subscriptions: deliveries, acks joined into ranges, and where each stands after a reconnect."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.client.conversation import Conversation, Heard
from tests.unit.client.fake_server import delivery
from tidings import calls, limits
from tidings.client.deliveries import ReadyRun
from tidings.client.subscriber import Options, State, Subscriber
from tidings.errors import (
    ConnectionLost,
    DeliveryTakenAway,
    InvalidInput,
    InvalidOption,
    NotFound,
    ProtocolViolation,
    SubscriptionConflict,
)
from tidings.model import BYTES, Run
from tidings.wire import (
    Ack,
    Backup,
    Delete,
    Deliver,
    Done,
    Gap,
    Goodbye,
    List,
    Listing,
    Part,
    Refusal,
    Resume,
    Subscribe,
    Unsubscribe,
)
from tidings.wire.frames import KIND_OF


def subscribed(*, durable: bool = True) -> tuple[Conversation, Subscriber]:
    talk = Conversation()
    talk.connect()
    return talk, talk.subscribe(durable=durable)


def deliver(talk: Conversation, subscriber: Subscriber, first: int, count: int, epoch: int = 1) -> None:
    talk.answer(*delivery(subscriber.handle, first, [b"%d" % (first + i) for i in range(count)], epoch=epoch))


def hand_over(subscriber: Subscriber, count: int) -> list[int]:
    """Takes messages one by one, as an iteration does."""
    sequences: list[int] = []
    while len(sequences) < count:
        if not subscriber.ready:
            taken = subscriber.take()
            if taken is None:
                break
            subscriber.hand_over([ReadyRun(first, items, run) for run, first, items in taken.decode()])
            continue
        run = subscriber.ready[0]
        pulled = islice(zip(run.items, run.sequences), count - len(sequences))  # noqa: B905 # sequences never end
        sequences += [sequence for _, sequence in pulled]
        if not run.remaining:
            subscriber.ready.popleft()
    return sequences


def acks(talk: Conversation) -> list[tuple[int, int, int]]:
    return [each for frame in talk.of(Ack) for each in frame.ranges]  # type: ignore[union-attr]


def test_acks_in_order_are_one_range() -> None:
    talk, subscriber = subscribed()
    for sequence in range(1, 1001):
        assert subscriber.ack(1, sequence, sequence)
    talk.carry()
    assert acks(talk) == [(1, 1, 1000)]


def test_acks_in_any_order_and_of_several_queues_are_joined() -> None:
    talk, subscriber = subscribed()
    for epoch, sequence in [(1, 3), (2, 9), (1, 1), (1, 2), (2, 7)]:
        subscriber.ack(epoch, sequence, sequence)
    talk.carry()
    assert acks(talk) == [(1, 1, 3), (2, 7, 7), (2, 9, 9)]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(0, 5)), max_size=40))
def test_what_is_acked_is_what_is_sent(ranges: list[tuple[int, int, int]]) -> None:
    talk, subscriber = subscribed()
    expected: set[tuple[int, int]] = set()
    for index, (epoch, first, more) in enumerate(ranges):
        subscriber.ack(epoch, first, first + more)
        expected |= {(epoch, sequence) for sequence in range(first, first + more + 1)}
        if index % 7 == 6:
            talk.carry()
    talk.carry()
    assert {(epoch, sequence) for epoch, first, last in acks(talk) for sequence in range(first, last + 1)} == expected


def test_too_many_ranges_are_split_into_several_acks() -> None:
    talk, subscriber = subscribed()
    for index in range(limits.ACK_RANGES_MAX + 1):
        subscriber.ack(1, 2 * index + 1, 2 * index + 1)
    talk.carry()
    assert [len(frame.ranges) for frame in talk.of(Ack)] == [limits.ACK_RANGES_MAX, 1]  # type: ignore[union-attr]


def test_a_durable_subscription_comes_back_by_name_with_what_was_acked() -> None:
    talk, subscriber = subscribed()
    deliver(talk, subscriber, 1, 10)
    assert hand_over(subscriber, 6) == [1, 2, 3, 4, 5, 6]
    subscriber.ack(1, 1, 3)
    talk.carry()
    subscriber.ack(1, 5, 5)
    talk.lose()
    talk.connect()
    again = talk.attach()
    assert [frame.name for frame in again] == ["me:orders/#"]
    assert again[0].resume == [Resume(1, 6, [(1, 3), (5, 5)])]
    talk.carry()
    assert acks(talk) == [(1, 5, 5)], "what was not sent goes as an ack, too"


def test_what_was_not_handed_over_is_forgotten_and_comes_again_once() -> None:
    talk, subscriber = subscribed()
    deliver(talk, subscriber, 1, 5)
    deliver(talk, subscriber, 6, 5)
    assert hand_over(subscriber, 3) == [1, 2, 3]
    talk.lose()
    assert hand_over(subscriber, 9) == []
    talk.connect()
    talk.attach()
    deliver(talk, subscriber, 4, 7)
    assert hand_over(subscriber, 9) == [4, 5, 6, 7, 8, 9, 10]


def test_an_ephemeral_subscription_says_what_was_received() -> None:
    talk, subscriber = subscribed(durable=False)
    deliver(talk, subscriber, 11, 5)
    deliver(talk, subscriber, 21, 5, epoch=2)
    assert hand_over(subscriber, 2) == [11, 12]
    talk.lose()
    talk.connect()
    resume = talk.attach()[0].resume
    assert sorted(resume, key=lambda each: each.epoch) == [Resume(1, 12, []), Resume(2, 20, [])]


def test_messages_in_an_iterations_hands_come_again_though_a_batch_after_them_was_taken() -> None:
    talk, subscriber = subscribed(durable=False)
    deliver(talk, subscriber, 1, 5)
    deliver(talk, subscriber, 6, 5)
    assert hand_over(subscriber, 2) == [1, 2]
    assert subscriber.take() is not None
    talk.lose()
    talk.connect()
    assert talk.attach()[0].resume == [Resume(1, 2, [])]


def test_an_iteration_that_was_interrupted_by_the_end_of_the_connection_gets_no_more_of_its_run() -> None:
    talk, subscriber = subscribed()
    deliver(talk, subscriber, 1, 5)
    assert hand_over(subscriber, 2) == [1, 2]
    run = subscriber.ready[0]
    talk.lose()
    assert next(run.items, None) is None
    assert not subscriber.ready


def test_who_gave_up_waiting_for_messages_is_forgotten() -> None:
    talk, subscriber = subscribed()
    patient, impatient = Heard(), Heard()
    subscriber.wait(patient)
    subscriber.wait(impatient)
    subscriber.forget_waiter(impatient)
    deliver(talk, subscriber, 1, 1)
    assert patient.results
    assert not impatient.results


@pytest.mark.parametrize("handed_over", [1, 3])
def test_a_redelivery_does_not_move_back_what_was_received(handed_over: int) -> None:
    talk, subscriber = subscribed(durable=False)
    deliver(talk, subscriber, 1, 9)
    hand_over(subscriber, 9)
    deliver(talk, subscriber, 2, 3)
    hand_over(subscriber, handed_over)
    talk.lose()
    talk.connect()
    assert talk.attach()[0].resume == [Resume(1, 9, [])]


def test_what_was_acked_while_it_came_again_is_not_handed_over_again() -> None:
    talk, subscriber = subscribed()

    def deliver_again(first: int, last: int) -> None:
        payloads = [b"x"] * (last - first + 1)
        talk.answer(*delivery(subscriber.handle, first, payloads, attempts=[(first, 2)]))

    deliver(talk, subscriber, 1, 5)
    hand_over(subscriber, 5)
    deliver_again(1, 5)
    subscriber.ack(1, 1, 2)
    talk.carry()
    subscriber.ack(1, 4, 4)
    taken = subscriber.take()
    assert taken is not None
    assert taken.ranges() == [(3, 3), (5, 5)]
    assert [(first, len(items)) for _, first, items in taken.decode()] == [(3, 1), (5, 1)]
    deliver_again(4, 4)
    assert subscriber.take() is None


def test_acks_wait_until_the_subscription_is_attached_again() -> None:
    talk, subscriber = subscribed()
    talk.lose()
    subscriber.ack(1, 1, 1)
    talk.connect()
    talk.carry()
    assert acks(talk) == []
    talk.attach()
    talk.carry()
    assert acks(talk) == [(1, 1, 1)]


def test_a_durable_ack_is_sent_again_until_it_is_answered() -> None:
    talk, subscriber = subscribed()
    heard = Heard()
    talk.session.ack_durably(subscriber, [(1, 1, 4)], heard)
    talk.carry()
    talk.lose()
    talk.connect()
    talk.attach()
    talk.carry()
    (ack,) = talk.of(Ack)
    assert isinstance(ack, Ack)
    talk.answer(Done(ack.request))
    assert heard.results


def test_a_refused_ack_is_reported_and_a_durable_one_raises() -> None:
    talk, subscriber = subscribed()
    talk.answer(Refusal(KIND_OF[Ack], 0, "never_delivered", "7 was never delivered"))
    assert [report.code for report in talk.session.reports()] == ["never_delivered"]
    heard = Heard()
    pending = talk.session.ack_durably(subscriber, [(1, 7, 7)], heard)
    talk.carry()
    talk.answer(Refusal(KIND_OF[Ack], pending.number, "delivery_taken_away", "too late"))
    assert isinstance(heard.error, DeliveryTakenAway)


def test_an_ack_after_the_end_is_too_late() -> None:
    talk, subscriber = subscribed()
    talk.session.unsubscribe(subscriber, Heard())
    assert not subscriber.ack(1, 1, 1)


def test_detaching_sends_acks_first() -> None:
    talk, subscriber = subscribed()
    subscriber.ack(1, 1, 2)
    heard = Heard()
    talk.session.unsubscribe(subscriber, heard)
    talk.carry()
    assert [type(frame) for frame, _ in talk.received[-2:]] == [Ack, Unsubscribe]
    talk.answer(Done(talk.of(Unsubscribe)[0].request))  # type: ignore[union-attr]
    assert heard.results


def test_the_end_of_a_connection_detaches_too() -> None:
    talk, subscriber = subscribed()
    heard = Heard()
    talk.session.unsubscribe(subscriber, heard)
    talk.carry()
    talk.lose()
    assert heard.results
    talk.connect()
    assert talk.of(Subscribe) == []


def test_a_refused_subscription_is_closed_with_the_error() -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    subscriber = talk.session.subscribe(Options("orders", "#"), heard)
    (frame,) = talk.carry()
    assert isinstance(frame, Subscribe)
    talk.answer(Refusal(KIND_OF[Subscribe], frame.request, "subscription_conflict", "other filter"))
    assert isinstance(heard.error, SubscriptionConflict)
    assert subscriber.closed
    assert isinstance(subscriber.error, SubscriptionConflict)


def test_gaps_are_kept_and_reported() -> None:
    talk, subscriber = subscribed()
    talk.answer(Gap(subscriber.handle, "orders", 1, 5, 9, "trimmed"))
    assert [(gap.first_sequence, gap.last_sequence) for gap in subscriber.gaps] == [(5, 9)]
    (report,) = talk.session.reports()
    assert "5 to 9" in report.text


def test_as_many_gaps_are_kept_as_a_server_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GAPS_MAX", 3)
    monkeypatch.setattr(limits, "HOLES_MAX", 2)  # of what is unsettled, not of what never comes
    talk, subscriber = subscribed()
    for sequence in range(1, 9, 2):
        talk.answer(Gap(subscriber.handle, "orders", 1, sequence, sequence, "damaged"))
    assert [gap.first_sequence for gap in subscriber.gaps] == [3, 5, 7]
    assert subscriber.gaps_seen == 4


def test_deliveries_for_a_closed_subscription_are_ignored() -> None:
    talk, subscriber = subscribed()
    talk.session.unsubscribe(subscriber, Heard())
    deliver(talk, subscriber, 1, 5)
    assert subscriber.take() is None
    assert talk.session.error is None


def test_a_delivery_that_does_not_describe_its_body_ends_the_session() -> None:
    talk, subscriber = subscribed()
    part = Part(1, 0, [Run("created", 1, 99, BYTES)])
    talk.answer(Deliver(subscriber.handle, "orders", 1, [part]), b"short")
    assert isinstance(talk.session.error, ProtocolViolation)
    assert subscriber.closed


def test_what_was_cut_out_of_a_part_is_not_acked_along() -> None:
    talk, subscriber = subscribed()
    _, body = delivery(subscriber.handle, 1, [b"a", b"b"])
    half = len(body) // 2
    runs = [Run(None, 3, 0), Run("a", 1, half, BYTES), Run(None, 5, 0), Run("b", 1, half, BYTES)]
    talk.answer(Deliver(subscriber.handle, "orders", 1, [Part(1, 0, runs)]), body)
    taken = subscriber.take()
    assert taken is not None
    assert taken.ranges() == [(4, 4), (10, 10)]
    assert [(first, [item[0] for item in items]) for _, first, items in taken.decode()] == [(4, [b"a"]), (10, [b"b"])]


def test_several_parts_share_one_body() -> None:
    talk, subscriber = subscribed()
    _, one = delivery(1, 1, [b"a"])
    _, two = delivery(1, 1, [b"bb", b"cc"])
    parts = [Part(1, 0, [Run("x", 1, len(one), BYTES)]), Part(2, 0, [Run("y", 2, len(two), BYTES)])]
    talk.answer(Deliver(subscriber.handle, "orders", 1, parts), one + two)
    assert hand_over(subscriber, 9) == [1, 2, 3]


def test_requests_are_asked_again_after_a_reconnect_in_order() -> None:
    talk = Conversation()
    talk.connect()
    listed, deleted = Heard(), Heard()
    talk.session.list("queues", "", listed)
    talk.session.delete("queue", "orders", deleted)
    talk.carry()
    talk.lose()
    talk.connect()
    assert [type(frame) for frame, _ in talk.received] == [List, Delete]
    talk.answer(Refusal(KIND_OF[Delete], talk.of(Delete)[0].request, "not_found", "gone"))  # type: ignore[union-attr]
    assert deleted.results, "it may have been deleted by the first request"


def test_deleting_what_is_not_there_is_refused() -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    pending = talk.session.delete("queue", "orders", heard)
    talk.carry()
    talk.answer(Refusal(KIND_OF[Delete], pending.number, "not_found", "there is none"))
    assert isinstance(heard.error, NotFound)


def test_a_backup_is_not_asked_for_twice() -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    talk.session.backup("copy.db", heard)
    talk.carry()
    talk.lose()
    assert isinstance(heard.error, ConnectionLost)
    talk.connect()
    assert talk.of(Backup) == []


def test_a_request_that_was_given_up_is_not_asked_again() -> None:
    talk = Conversation()
    pending = talk.session.list("queues", "", Heard())
    talk.session.give_up(pending)
    talk.connect()
    assert talk.received == []


def test_the_token_of_the_welcome_comes_back_with_the_next_hello() -> None:
    talk = Conversation()
    talk.connect()
    assert talk.hello.token == ""
    talk.lose()
    talk.connect()
    assert talk.hello.token == "token"


def test_a_farewell_that_forbids_to_come_back_ends_everything() -> None:
    talk, subscriber = subscribed()
    publish, _ = talk.publish("orders", "a")
    heard, waiting = Heard(), Heard()
    talk.session.list("queues", "", heard)
    subscriber.wait(waiting)
    talk.answer(Goodbye("taken_over", "by another"))
    for error in (publish.error, heard.error, talk.session.error, subscriber.error):
        assert error is not None
        assert type(error).__name__ == "TakenOver"
    assert waiting.done()


def test_a_draining_server_is_left_without_an_error() -> None:
    talk, subscriber = subscribed()
    talk.answer(Goodbye("draining", "about to stop"))
    assert talk.session.connection_ended
    assert talk.session.error is None
    talk.lose()
    assert subscriber.state is State.WAITING


def test_a_silent_server_is_given_up() -> None:
    talk, _ = subscribed()
    deadline_ms = talk.session.next_deadline_ms()
    assert deadline_ms == 10_000
    talk.session.tick(10_000)
    assert talk.session.data_to_send(10_000), "a heartbeat"
    talk.session.tick(25_000)
    assert talk.session.connection_ended
    assert "silent" in str(talk.session.lost)
    assert talk.session.error is None


def test_a_listing_arrives() -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    pending = talk.session.list("queues", "", heard)
    talk.carry()
    talk.answer(Listing(pending.number, b"\x90", ""))  # type: ignore[arg-type]
    assert isinstance(heard.results[0], Listing)


def test_a_refused_request_raises_its_error() -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    pending = talk.session.backup("copy.db", heard)
    talk.carry()
    talk.answer(Refusal(KIND_OF[Backup], pending.number, "invalid_option", "it exists"))
    assert isinstance(heard.error, InvalidOption)


@pytest.mark.parametrize("call", [calls.DeleteMessage(queue="orders", sequence=2**64), calls.Purge(queue="\udc80")])
def test_a_call_that_cannot_be_spelled_is_refused_and_the_others_go_on(call: calls.Call) -> None:
    talk = Conversation()
    talk.connect()
    refused = Heard()
    talk.session.call(call, refused)
    talk.session.list("queues", "", Heard())
    assert [type(frame) for frame in talk.carry()] == [List]
    assert isinstance(refused.error, InvalidInput)


def test_a_subscription_that_cannot_be_spelled_is_refused_and_closed() -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    subscriber = talk.session.subscribe(Options("orders", "#", start="sequence", start_value=2**64), heard)
    assert talk.carry() == []
    assert isinstance(heard.error, InvalidInput)
    assert subscriber.closed


def test_a_cumulative_ack_names_what_was_handed_over_and_nothing_else() -> None:
    talk, subscriber = subscribed()
    deliver(talk, subscriber, 1, 2)
    deliver(talk, subscriber, 4, 3)
    hand_over(subscriber, 2)
    hand_over(subscriber, 1)
    assert subscriber.handed_up_to(1, 9) == [(1, 1, 2), (1, 4, 4)], "3 failed before, 5 and 6 wait here"
    assert subscriber.handed_up_to(1, 9) == []


# --- moved ---

MOVED = 1 | 1 << 32  # the reading of queue 1 after its first move


def test_what_came_before_a_move_is_forgotten_and_its_acks_are_left_to_the_server() -> None:
    talk, subscriber = subscribed()
    deliver(talk, subscriber, 1, 4)
    deliver(talk, subscriber, 5, 4)
    assert hand_over(subscriber, 2) == [1, 2]
    subscriber.ack(1, 1, 1)
    talk.carry()
    talk.answer(Deliver(subscriber.handle, "orders", MOVED, [Part(3, 0, [])]))
    assert hand_over(subscriber, 8) == [], "3 to 8 of before the move are void"
    subscriber.ack(1, 2, 2)
    talk.carry()
    assert acks(talk) == [(1, 1, 1), (1, 2, 2)], "the server refuses it, and that is reported"
    deliver(talk, subscriber, 3, 2, epoch=MOVED)
    assert hand_over(subscriber, 8) == [3, 4]
    subscriber.ack(MOVED, 3, 4)
    talk.carry()
    assert acks(talk)[2:] == [(MOVED, 3, 4)]


def test_after_a_move_only_what_was_acked_since_is_told_on_the_next_connection() -> None:
    talk, subscriber = subscribed()
    deliver(talk, subscriber, 1, 4)
    hand_over(subscriber, 4)
    subscriber.ack(1, 1, 4)
    talk.carry()
    deliver(talk, subscriber, 1, 2, epoch=MOVED)
    hand_over(subscriber, 2)
    subscriber.ack(MOVED, 1, 1)
    talk.carry()
    talk.lose()
    talk.connect()
    (again,) = talk.of(Subscribe)
    assert isinstance(again, Subscribe)
    assert again.resume == [Resume(MOVED, 2, [(1, 1)])]


def test_an_ephemeral_subscription_continues_where_it_was_moved_to_though_nothing_came_since() -> None:
    talk, subscriber = subscribed(durable=False)
    deliver(talk, subscriber, 1, 4)
    hand_over(subscriber, 4)
    talk.answer(Deliver(subscriber.handle, "orders", MOVED, [Part(3, 0, [])]))
    talk.lose()
    talk.connect()
    (again,) = talk.of(Subscribe)
    assert isinstance(again, Subscribe)
    assert again.resume == [Resume(MOVED, 2, [])]


def test_a_move_in_one_queue_leaves_the_others_alone() -> None:
    talk, subscriber = subscribed()
    deliver(talk, subscriber, 1, 2, epoch=2)
    talk.answer(Deliver(subscriber.handle, "orders", MOVED, [Part(3, 0, [])]))
    assert hand_over(subscriber, 2) == [1, 2]


def test_a_gap_is_acked_as_the_server_named_it_and_after_a_move_it_is_another_one() -> None:
    talk, subscriber = subscribed()
    told = [Gap(subscriber.handle, "orders", epoch, 1, 2, "trimmed") for epoch in (1, 1, MOVED)]
    for gap in told:
        talk.answer(gap)
    assert subscriber.gaps == told[1:], "told again and again it is still one"
    talk.carry()
    assert acks(talk) == [(1, 1, 2), (MOVED, 1, 2)]
