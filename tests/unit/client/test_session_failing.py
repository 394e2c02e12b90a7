"""The session says what became of messages that failed, and asks what else there is to ask."""

import msgspec
import pytest

from tests.unit.client.conversation import Conversation, Heard
from tests.unit.client.fake_server import delivery
from tidings import calls
from tidings.client.subscriber import Options, Subscriber
from tidings.errors import ConnectionLost, DeliveryTakenAway, NotFound
from tidings.wire import Ack, Call, Done, Extend, Nack, Refusal, Result, Subscribe, Subscribed, Unsubscribe
from tidings.wire.frames import KIND_OF


def subscribed() -> tuple[Conversation, Subscriber]:
    """Returns a conversation with a subscription that was delivered messages 1 to 5."""
    talk = Conversation()
    talk.connect()
    subscriber = talk.subscribe()
    talk.answer(*delivery(subscriber.handle, 1, [b"x"] * 5))
    return talk, subscriber


def nack(subscriber: Subscriber, sequence: int, *, request: int = 0, reject: bool = False) -> Nack:
    return Nack(subscriber.handle, [(1, sequence, sequence)], request, reject=reject)


def extend(subscriber: Subscriber, sequence: int) -> Extend:
    return Extend(subscriber.handle, [(1, sequence, sequence)])


def given_back(talk: Conversation) -> list[int]:
    frames = [frame for frame, _ in talk.received if isinstance(frame, Nack | Extend)]
    return [frame.ranges[0][1] for frame in frames]


def test_nacks_follow_the_acks_of_their_turn_in_their_order() -> None:
    talk, subscriber = subscribed()
    subscriber.give_back(nack(subscriber, 2), 1)
    subscriber.ack(1, 1, 1)
    subscriber.give_back(extend(subscriber, 4), 1)
    subscriber.give_back(nack(subscriber, 3, reject=True), 1)
    sent = talk.carry()
    assert [type(frame) for frame in sent] == [Ack, Nack, Extend, Nack]
    assert sent[1:] == [nack(subscriber, 2), extend(subscriber, 4), nack(subscriber, 3, reject=True)]
    assert talk.carry() == []


@pytest.mark.parametrize("flushed", [False, True])
def test_of_what_was_acked_nothing_else_is_told(flushed: bool) -> None:
    talk, subscriber = subscribed()
    subscriber.ack(1, 1, 3)
    if flushed:
        talk.carry()
    heard = Heard()
    assert subscriber.give_back(nack(subscriber, 2), 1)
    assert talk.session.give_back_durably(subscriber, nack(subscriber, 3), 1, heard) is None
    subscriber.give_back(nack(subscriber, 5), 1)
    subscriber.ack(1, 5, 5)
    talk.carry()
    assert given_back(talk) == []


def test_a_nack_is_not_sent_over_another_connection_than_its_delivery_came() -> None:
    talk, subscriber = subscribed()
    taken = subscriber.take()
    assert taken is not None
    subscriber.give_back(nack(subscriber, 1), taken.attachment)  # not flushed before the connection is lost
    talk.lose()
    assert subscriber.give_back(nack(subscriber, 2), taken.attachment)
    talk.connect()
    talk.attach()
    assert subscriber.give_back(nack(subscriber, 3), taken.attachment)
    talk.answer(*delivery(subscriber.handle, 1, [b"x"] * 5))
    again = subscriber.take()
    assert again is not None
    subscriber.give_back(nack(subscriber, 4), again.attachment)
    talk.carry()
    assert given_back(talk) == [4]


def test_what_is_held_is_extended_over_any_connection() -> None:
    talk, subscriber = subscribed()
    talk.lose()
    talk.connect()
    talk.attach()
    subscriber.give_back(extend(subscriber, 1), 1)
    talk.carry()
    assert given_back(talk) == [1]


@pytest.mark.parametrize("sent", [False, True])
def test_a_durable_nack_that_is_lost_with_its_connection_says_so(sent: bool) -> None:
    talk, subscriber = subscribed()
    heard, late = Heard(), Heard()
    talk.session.give_back_durably(subscriber, nack(subscriber, 1), 1, heard)
    if sent:
        talk.carry()
    talk.lose()
    assert isinstance(heard.error, ConnectionLost)
    talk.connect()
    talk.attach()
    assert given_back(talk) == []
    with pytest.raises(ConnectionLost, match="delivered again"):
        talk.session.give_back_durably(subscriber, nack(subscriber, 1), 1, late)


def test_a_durable_nack_is_answered_or_refused() -> None:
    talk, subscriber = subscribed()
    done, refused = Heard(), Heard()
    first = talk.session.give_back_durably(subscriber, nack(subscriber, 1), 1, done)
    second = talk.session.give_back_durably(subscriber, extend(subscriber, 2), 1, refused)
    assert first is not None
    assert second is not None
    assert [frame.request for frame in talk.carry()] == [first.number, second.number]  # type: ignore[union-attr]
    talk.answer(Done(first.number))
    talk.answer(Refusal(KIND_OF[Extend], second.number, "delivery_taken_away", "too late"))
    assert done.results
    assert isinstance(refused.error, DeliveryTakenAway)


def test_a_refused_nack_that_nobody_waits_for_is_reported_once() -> None:
    talk, subscriber = subscribed()
    subscriber.give_back(nack(subscriber, 1), 1)
    talk.carry()
    talk.answer(Refusal(KIND_OF[Nack], 0, "delivery_taken_away", "1 is not in flight"))
    assert [report.text for report in talk.session.reports()] == ["1 is not in flight"]
    assert talk.session.reports() == []


def test_detaching_and_closing_send_nacks_first() -> None:
    talk, subscriber = subscribed()
    subscriber.give_back(nack(subscriber, 1), 1)
    assert not talk.session.idle
    talk.session.unsubscribe(subscriber, Heard())
    talk.carry()
    assert [type(frame) for frame, _ in talk.received[-2:]] == [Nack, Unsubscribe]
    assert not subscriber.give_back(nack(subscriber, 2), 1)
    with pytest.raises(DeliveryTakenAway):
        talk.session.give_back_durably(subscriber, nack(subscriber, 2), 1, Heard())


def test_what_was_asked_for_is_sent_and_what_holds_is_known() -> None:
    talk = Conversation()
    talk.connect()
    options = Options("orders", "#", attempts_max=3, backoff_min_ms=10, backoff_max_ms=20)
    subscriber = talk.session.subscribe(options, Heard())
    (frame,) = talk.carry()
    assert isinstance(frame, Subscribe)
    assert (frame.attempts_max, frame.backoff_min_ms, frame.backoff_max_ms) == (3, 10, 20)
    assert (subscriber.attempts_max, subscriber.ack_timeout_ms) == (3, 30_000)
    talk.answer(Subscribed(frame.request, "me:orders/#", True, False, [], 700, 4))
    assert (subscriber.attempts_max, subscriber.ack_timeout_ms) == (4, 700)


def test_what_was_redriven_is_marked() -> None:
    talk, subscriber = subscribed()
    frame, body = delivery(subscriber.handle, 1, [b"x"], epoch=9)
    talk.answer(msgspec.structs.replace(frame, redriven=True), body)
    assert [taken.redriven for taken in (subscriber.take(), subscriber.take()) if taken] == [False, True]


# --- Calls ---


def asked(talk: Conversation) -> list[object]:
    return [calls.decode_call(body) for frame, body in talk.received if isinstance(frame, Call)]


def test_a_call_is_answered_by_the_body_of_its_result() -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    pending = talk.session.call(calls.Redrive(subscription="billing", number=3), heard)
    talk.carry()
    assert asked(talk) == [calls.Redrive(subscription="billing", number=3)]
    talk.answer(Result(pending.number), msgspec.msgpack.encode(1))
    assert heard.results == [msgspec.msgpack.encode(1)]


def test_a_call_is_asked_again_after_a_lost_connection() -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    talk.session.call(calls.ConfigureSubscription(name="billing", attempts_max=3), heard)
    talk.carry()
    talk.lose()
    talk.connect()
    assert asked(talk) == [calls.ConfigureSubscription(name="billing", attempts_max=3)]
    assert not heard.done()


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (calls.DeleteDeadLetters(subscription="billing", number=3), 1),
        (calls.Redrive(subscription="billing", number=3), 1),
        (calls.Redrive(subscription="billing", fingerprint="f"), 0),
        (calls.CancelSchedule(handle="1000-1-5000"), None),
    ],
)
def test_what_is_gone_when_asked_again_counts_as_done(call: calls.Call, answer: int | None) -> None:
    talk = Conversation()
    talk.connect()
    at_once, after_outage = Heard(), Heard()
    pending = talk.session.call(call, at_once)
    talk.carry()
    talk.answer(Refusal(KIND_OF[Call], pending.number, "not_found", "there is none"))
    assert isinstance(at_once.error, NotFound), "it was never there"
    pending = talk.session.call(call, after_outage)
    talk.carry()
    talk.lose()
    talk.connect()
    talk.answer(Refusal(KIND_OF[Call], pending.number, "not_found", "there is none"))
    assert after_outage.results == [msgspec.msgpack.encode(answer)]


@pytest.mark.parametrize(
    "call",
    [
        calls.EditDeadLetter(subscription="billing", number=3),
        calls.CancelSchedule(handle="1000-1"),  # it may have been published instead
    ],
)
def test_what_is_gone_for_whatever_reason_is_not_found_also_after_an_outage(call: calls.Call) -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    pending = talk.session.call(call, heard)
    talk.carry()
    talk.lose()
    talk.connect()
    talk.answer(Refusal(KIND_OF[Call], pending.number, "not_found", "there is none"))
    assert isinstance(heard.error, NotFound)


def test_to_schedule_is_not_asked_twice() -> None:
    talk = Conversation()
    talk.connect()
    heard = Heard()
    talk.session.call(calls.Schedule(queue="orders", event="due", payload=b"", delay_ms=1), heard)
    talk.carry()
    talk.lose()
    assert isinstance(heard.error, ConnectionLost)
    talk.connect()
    assert asked(talk) == []


@pytest.mark.parametrize("back", [False, True])
def test_a_nack_after_a_lost_connection_is_too_late_where_nothing_is_delivered_again(back: bool) -> None:
    talk = Conversation()
    talk.connect()
    subscriber = talk.subscribe(durable=False)
    talk.answer(*delivery(subscriber.handle, 1, [b"x"] * 2))
    subscriber.ack(1, 1, 1)
    talk.carry()
    talk.lose()
    if back:
        talk.connect()
        talk.attach(durable=False)
    assert not subscriber.give_back(nack(subscriber, 2), 1)
    assert subscriber.give_back(nack(subscriber, 1), 1), "it was acked, so nothing is lost"
    assert not subscriber.comes_again(1)
    with pytest.raises(ConnectionLost, match="not delivered again, since the subscription is not durable"):
        talk.session.give_back_durably(subscriber, nack(subscriber, 2), 1, Heard())


def test_a_nack_after_a_lost_connection_is_not_missed_where_the_message_comes_again_anyway() -> None:
    talk, subscriber = subscribed()
    talk.lose()
    assert subscriber.give_back(nack(subscriber, 2), 1)
    assert subscriber.comes_again(1)
