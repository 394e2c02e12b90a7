"""The session joins, numbers, keeps and sends again what is published."""

import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.client.conversation import Conversation, Heard
from tidings import limits
from tidings.batch import encode_item
from tidings.client.outgoing import OutgoingTransaction
from tidings.client.publisher import Publisher
from tidings.errors import ConnectionLost, DiskFull, ProtocolViolation, TidingsError
from tidings.model import BYTES
from tidings.wire import Goodbye, Publish, Refusal
from tidings.wire.frames import KIND_OF

PUBLISH = KIND_OF[Publish]


@pytest.fixture
def talk() -> Conversation:
    talk = Conversation()
    talk.connect()
    return talk


def test_what_is_published_in_one_turn_to_one_queue_is_one_batch(talk: Conversation) -> None:
    for _ in range(3):
        talk.publish("orders", "created")
    talk.publish("users", "created")
    talk.carry()
    assert [(frame.queue, frame.runs[0].count) for frame in talk.publishes] == [("orders", 3), ("users", 1)]


def test_runs_follow_the_order_of_the_calls(talk: Conversation) -> None:
    for event in "aabba":
        talk.publish("orders", event)
    talk.carry()
    assert [(run.event, run.count) for run in talk.publishes[0].runs] == [("a", 2), ("b", 2), ("a", 1)]


def test_every_message_gets_its_own_place_and_the_subscriptions_of_its_run(talk: Conversation) -> None:
    heard = [talk.publish("orders", event)[0] for event in "aab"]
    talk.carry()
    talk.confirm(1, 41, [5, 6])
    assert [(each.confirm.sequence, each.confirm.subscriptions, each.confirm.count) for each in heard] == [
        (41, 5, 1),
        (42, 5, 1),
        (43, 6, 1),
    ]


def test_a_duplicate_gets_the_place_of_the_first_and_the_others_follow_each_other(talk: Conversation) -> None:
    heard = [talk.publish("orders", "a")[0] for _ in range(4)]
    talk.carry()
    talk.confirm(1, 41, [5], duplicates=[(0, 7), (2, 41)])
    assert [(each.confirm.sequence, each.confirm.duplicate_of) for each in heard] == [
        (7, 7),
        (41, None),
        (41, 41),
        (42, None),
    ]


def test_one_waiter_gets_one_confirm_for_its_neighbouring_messages(talk: Conversation) -> None:
    heard = Heard()
    body = encode_item(b"x", None, None, None)
    talk.session.publish("orders", "a", BYTES, 0, 1, body, heard)
    talk.session.publish("orders", "a", "text/plain", 0, 1, body, heard)
    talk.session.publish("orders", "a", BYTES, 0, 2, body * 2, heard)
    after, _ = talk.publish("orders", "a")
    talk.carry()
    talk.confirm(1, 1, [1, 1, 1])
    assert heard.confirm.count == 4
    assert after.confirm.sequence == 5


def test_batches_are_numbered_and_say_up_to_which_all_are_answered(talk: Conversation) -> None:
    for _ in range(3):
        talk.publish("orders", "created")
        talk.carry()
    talk.confirm(1, 1)
    talk.publish("orders", "created")
    talk.carry()
    assert [(frame.number, frame.answered) for frame in talk.publishes] == [(1, 1), (2, 1), (3, 1), (4, 2)]


def test_a_batch_grows_only_up_to_its_limits(talk: Conversation) -> None:
    payload = b"x" * 100_000
    for _ in range(5):
        talk.publish("orders", "created", payload)
    talk.publish("orders", "created", b"x" * 1_000_000)
    talk.carry()
    assert [frame.runs[0].count for frame in talk.publishes] == [2, 2, 1, 1]


def test_a_batch_has_no_more_runs_than_allowed(talk: Conversation) -> None:
    for index in range(limits.BATCH_RUNS_MAX + 1):
        talk.publish("orders", f"e{index % 2}")
    talk.carry()
    assert [len(frame.runs) for frame in talk.publishes] == [limits.BATCH_RUNS_MAX, 1]


def test_unanswered_batches_are_sent_again_first_in_order_with_their_numbers(talk: Conversation) -> None:
    heard = []
    for event in "abc":
        heard.append(talk.publish("orders", event)[0])
        talk.carry()
    bodies = [received.body for received in talk.received]
    talk.confirm(1, 1)
    talk.lose()
    heard.append(talk.publish("orders", "d")[0])
    talk.connect()
    assert [(frame.number, frame.runs[0].event) for frame in talk.publishes] == [(2, "b"), (3, "c"), (4, "d")]
    assert [received.body for received in talk.received][:2] == bodies[1:]
    for number in (2, 3, 4):
        talk.confirm(number, number)
    assert [each.confirm.sequence for each in heard] == [1, 2, 3, 4]


def test_nothing_is_sent_before_the_welcome(talk: Conversation) -> None:
    talk.lose()
    talk.publish("orders", "created")
    talk.connect(welcome=False)
    assert talk.received == []


def test_a_batch_confirmed_twice_is_answered_once(talk: Conversation) -> None:
    heard, _ = talk.publish("orders", "created")
    talk.carry()
    talk.confirm(1, 7)
    talk.confirm(1, 7)
    assert len(heard.results) == 1


def test_only_so_many_batches_wait_for_their_confirm_and_the_rest_is_joined(talk: Conversation) -> None:
    for _ in range(limits.UNCONFIRMED_BATCHES_MAX + 10):
        talk.publish("orders", "created")
        talk.carry()
    assert len(talk.publishes) == limits.UNCONFIRMED_BATCHES_MAX
    talk.confirm(1, 1)
    talk.carry()
    assert talk.publishes[-1].runs[0].count == 10


def test_nothing_is_published_while_the_transport_takes_no_more(talk: Conversation) -> None:
    talk.session.paused = True
    talk.publish("orders", "created")
    assert talk.carry() == []
    talk.session.paused = False
    assert len(talk.carry()) == 1


def test_a_refusal_reaches_everybody_in_the_batch(talk: Conversation) -> None:
    first, second = talk.publish("orders", "a")[0], talk.publish("orders", "b")[0]
    talk.carry()
    talk.answer(Refusal(PUBLISH, 1, "disk_full", "no space"))
    assert isinstance(first.error, DiskFull)
    assert isinstance(second.error, DiskFull)
    assert first.error is not second.error
    assert talk.session.idle


def test_what_a_draining_server_refuses_is_sent_to_the_next(talk: Conversation) -> None:
    heard, _ = talk.publish("orders", "a")
    talk.carry()
    talk.answer(Refusal(PUBLISH, 1, "draining", "about to stop"))
    talk.answer(Goodbye("draining", "about to stop"))
    assert not heard.done()
    talk.lose()
    talk.connect()
    assert [frame.number for frame in talk.publishes] == [1]


def test_what_was_never_sent_can_be_withdrawn(talk: Conversation) -> None:
    talk.lose()
    kept, _ = talk.publish("orders", "a", b"kept")
    _, entry = talk.publish("orders", "b", b"gone")
    last, _ = talk.publish("orders", "a", b"last")
    assert talk.session.withdraw(entry)
    talk.connect()
    assert [(run.event, run.count) for run in talk.publishes[0].runs] == [("a", 2)]
    assert b"gone" not in talk.received[0].body
    talk.confirm(1, 1)
    assert (kept.confirm.sequence, last.confirm.sequence) == (1, 2)


def test_what_was_sent_cannot_be_withdrawn(talk: Conversation) -> None:
    _, entry = talk.publish("orders", "a")
    talk.carry()
    assert not talk.session.withdraw(entry)
    talk.lose()
    assert not talk.session.withdraw(entry)


def test_a_queue_whose_messages_were_all_withdrawn_sends_nothing(talk: Conversation) -> None:
    _, entry = talk.publish("orders", "a")
    talk.session.withdraw(entry)
    assert talk.carry() == []


def test_the_end_says_what_may_have_been_stored(talk: Conversation) -> None:
    sent, _ = talk.publish("orders", "a")
    talk.carry()
    talk.lose()
    unsent, _ = talk.publish("orders", "b")
    talk.session.fail(ConnectionLost("over"))
    assert "may have been stored" in str(sent.error)
    assert "never sent" in str(unsent.error)
    with pytest.raises(ConnectionLost, match="over"):
        talk.publish("orders", "c")


def test_a_confirm_that_does_not_fit_its_batch_ends_the_session(talk: Conversation) -> None:
    heard, _ = talk.publish("orders", "a")
    talk.carry()
    talk.confirm(1, 1, [1, 2, 3])
    assert isinstance(talk.session.error, ProtocolViolation)
    assert isinstance(heard.error, TidingsError)


def test_room_is_given_in_turn_when_confirms_make_it(talk: Conversation) -> None:
    size = limits.PUBLISH_BUFFER_BYTES_MAX // 32
    for _ in range(32):
        talk.publish("orders", "a", b"x" * size)
    talk.carry()
    assert talk.session.room.full
    waiting = [Heard() for _ in range(3)]
    for each in waiting:
        talk.session.room.wait(each)
    assert not any(each.done() for each in waiting)
    talk.session.room.forget(waiting[1])
    talk.confirm(1, 1)
    assert [each.done() for each in waiting] == [True, False, True]
    assert talk.session.room.full, "those who were given room come before others"
    talk.session.room.taken()
    talk.session.room.taken()
    assert not talk.session.room.full


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.sampled_from(["q", "r"]), st.sampled_from(["a", "b"])),
            st.tuples(st.sampled_from(["flush", "confirm", "lose"])),
            st.tuples(st.just("withdraw"), st.integers(0, 30)),
        ),
        max_size=60,
    )
)
def test_every_message_is_stored_once_in_order_or_withdrawn(steps: list[tuple[object, ...]]) -> None:
    """A server that remembers numbers, lost connections at any time, publishes withdrawn at any time."""
    talk = Conversation()
    talk.connect()
    stored: dict[int, Publish] = {}
    bodies: list[tuple[str, bytes]] = []
    unconfirmed: list[int] = []
    published: list[tuple[str, bytes, Heard, object]] = []
    withdrawn: set[int] = set()

    def serve() -> None:
        for frame, body in talk.received:
            assert isinstance(frame, Publish)
            if frame.number not in stored:
                assert frame.number == len(stored) + 1
                stored[frame.number] = frame
                bodies.append((frame.queue, body))
            unconfirmed.append(frame.number)
        talk.received.clear()

    for step in steps:
        match step:
            case ("publish", str(queue), str(event)):
                payload = b"<%d>" % len(published)
                heard, entry = talk.publish(queue, event, payload)
                published.append((queue, payload, heard, entry))
            case ("flush",):
                talk.carry()
                serve()
            case ("confirm",) if unconfirmed:
                number = unconfirmed.pop(0)
                talk.confirm(number, 1, [0 for _ in stored[number].runs])
            case ("lose",):
                serve()
                talk.lose()
                unconfirmed.clear()
                talk.connect()
            case ("withdraw", int(index)) if index < len(published):
                if talk.session.withdraw(published[index][3]):  # type: ignore[arg-type]
                    withdrawn.add(index)
    talk.carry()
    serve()
    for number in stored:
        talk.confirm(number, 1, [0 for _ in stored[number].runs])
    for queue in ("q", "r"):
        expected = [p for i, (name, p, _, _) in enumerate(published) if name == queue and i not in withdrawn]
        body = b"".join(body for name, body in bodies if name == queue)
        assert body == b"".join(encode_item(payload, None, None, None) for payload in expected)
    assert all(heard.done() != (index in withdrawn) for index, (_, _, heard, _) in enumerate(published))
    assert talk.session.idle


def test_transactions_that_are_withdrawn_in_a_long_outage_are_forgotten() -> None:
    publisher = Publisher()
    publisher.add("orders", "created", BYTES, 0, 1, b"stays", Heard())
    gone: list[weakref.ref[object]] = []
    for _ in range(100):
        transaction = OutgoingTransaction()
        transaction.add("orders", "created", BYTES, 0, b"goes")
        gone.append(weakref.ref(transaction))
        publisher.withdraw(publisher.add_transaction(transaction, Heard()))
        del transaction
    assert [each() for each in gone] == [None] * 100
    ((publish, body),) = publisher.frames()
    assert isinstance(publish, Publish)
    assert (publish.runs[0].count, body) == (1, [b"stays"])


def test_messages_that_are_withdrawn_in_a_long_outage_are_forgotten() -> None:
    publisher = Publisher()
    publisher.add("orders", "created", BYTES, 0, 1, b"stays", Heard())
    gone: list[weakref.ref[object]] = []
    for _ in range(100):
        heard = Heard()
        gone.append(weakref.ref(heard))
        publisher.withdraw(publisher.add("orders", "created", BYTES, 0, 1, b"goes", heard))
        del heard
    assert sum(each() is not None for each in gone) <= 1
    ((publish, body),) = publisher.frames()
    assert isinstance(publish, Publish)
    assert (publish.runs[0].count, body) == (1, [b"stays"])
