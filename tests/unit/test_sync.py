"""The blocking client, against a broker in this process."""

import asyncio
import inspect
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn
from uuid import uuid4

import pytest

import tidings
import tidings.sync


@pytest.fixture
def url() -> str:
    return f"memory:{uuid4().hex}"


def take(subscription: tidings.sync.Subscription, count: int) -> list[tidings.sync.Message]:
    messages = []
    for message in subscription:
        messages.append(message)
        if len(messages) == count:
            break
    return messages


def test_publish_subscribe_and_ack(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client:
        with client.subscribe("orders", start="earliest") as subscription:
            assert client.publish("orders", "created", {"id": 1}).sequence == 1
            confirms = client.publish_many("orders", "created", ({"id": number} for number in range(2, 11)))
            assert sum(confirm.count for confirm in confirms) == 9
            for message in take(subscription, 9):
                assert message.payload == {"id": message.sequence}
                message.ack()
            (last,) = take(subscription, 1)
            last.ack(wait=True)
        (info,) = client.subscriptions()
        assert (info.name, info.cursor, info.lag) == ("me:orders/#", 10, 0)


def test_acks_are_sent_before_the_subscription_closes(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client:
        with client.subscribe("orders", start="earliest") as subscription:
            client.publish_many("orders", "created", range(100))
            for message in take(subscription, 100):
                message.ack()
        assert client.subscriptions()[0].lag == 0


def test_what_was_fetched_and_not_seen_is_not_handed_over_after_the_end(url: str) -> None:
    with tidings.sync.connect(url) as client:
        first, second = client.subscribe("orders"), client.subscribe("orders")
        first.attach()
        second.attach()
        client.publish_many("orders", "created", range(100))
        assert [message.payload for message in take(first, 1) + take(second, 1)] == [0, 0]
        first.close()
        assert take(first, 1) == []
    assert take(second, 1) == []


def test_batches(url: str) -> None:
    with tidings.sync.connect(url) as client, client.subscribe("orders") as subscription:
        client.publish_many("orders", "created", range(50))
        payloads: list[int] = []
        for batch in subscription.batches():
            payloads += batch.payloads
            assert [message.payload for message in batch] == batch.payloads
            batch.ack()
            if len(payloads) == 50:
                break
        assert payloads == list(range(50))


def test_ranges_and_cumulative_acks(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client, client.subscribe("orders") as subscription:
        client.publish_many("orders", "created", range(5))
        messages = take(subscription, 5)
        subscription.ack(4, 5, wait=True)
        subscription.ack_to(messages[2], wait=True)
        assert client.subscriptions()[0].cursor == 5


def test_closing_the_client_ends_an_iteration_in_another_thread(url: str) -> None:
    client = tidings.sync.connect(url)
    client.open()
    subscription = client.subscribe("orders")
    subscription.attach()
    ended = threading.Event()

    def iterate() -> None:
        for _ in subscription:
            pass
        ended.set()

    thread = threading.Thread(target=iterate)
    thread.start()
    client.close()
    thread.join(10)
    assert ended.is_set()
    subscription.close()
    client.close()
    with pytest.raises(tidings.ConnectionLost, match="closed"):
        client.publish("orders", "created", 1)


def test_handlers_run_in_threads_until_the_client_is_closed(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client:
        seen: list[int] = []
        together = threading.Barrier(2, timeout=10)

        @client.on("orders", start="earliest", concurrency=2)
        def handle(message: tidings.sync.Message) -> None:
            together.wait()
            seen.append(message.payload)
            if len(seen) == 4:
                threading.Thread(target=stop).start()

        def stop() -> None:
            client.close()

        client.publish_many("orders", "created", range(4))
        client.run()
        assert sorted(seen) == [0, 1, 2, 3]


def test_failing_messages_become_dead_letters_that_are_looked_at_edited_and_redriven(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client:
        seen: list[tuple[object, int, bool]] = []

        @client.on("orders", name="billing", start="earliest", attempts_max=2, backoff_max=0.001)
        def bill(message: tidings.sync.Message) -> None:
            seen.append((message.payload, message.attempt, message.redriven))
            if message.payload == "bad":
                raise KeyError("vat")
            if message.payload == "wrong":
                raise tidings.Reject("no order")
            threading.Thread(target=client.close).start()

        client.publish_many("orders", "created", ["bad", "wrong"])
        running = threading.Thread(target=client.run)
        running.start()
        with tidings.sync.connect(url) as other:
            letters: list[tidings.DeadLetter] = []
            while len(letters) < 2:
                letters = list(other.dead_letters("billing")) if other.subscriptions() else []
            assert {(letter.payload, letter.reason, letter.attempts) for letter in letters} == {
                ("bad", "attempts", 2), ("wrong", "rejected", 1),
            }  # fmt: skip
            [failure] = [letter.failure for letter in letters if letter.payload == "bad"]
            assert failure is not None
            assert (failure.type, failure.text, failure.place) == ("KeyError", "'vat'", "bill() in test_sync.py")
            assert {group.count for group in other.dead_letter_groups("billing")} == {1}
            number = letters[0].number
            other.edit_dead_letter("billing", number, payload="good")
            other.configure_subscription("billing", attempts_max=5)
            assert {info.attempts_max for info in other.subscriptions()} == {5}
            assert other.redrive("billing", number=number) == 1
            running.join(10)
            assert seen[-1] == ("good", 1, True)
            assert other.delete_dead_letters("billing") == 1
            assert list(other.dead_letters("billing", limit=1)) == []


def test_a_message_is_nacked_rejected_and_extended(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client, client.subscribe("orders") as subscription:
        client.publish_many("orders", "created", ["nacked", "rejected"])
        nacked, rejected = take(subscription, 2)
        nacked.extend()
        nacked.extend(wait=True)
        nacked.nack(delay=0, wait=True)
        rejected.reject("no order")
        (again,) = take(subscription, 1)
        assert (again.payload, again.attempt) == ("nacked", 2)
        with pytest.raises(tidings.DeliveryTakenAway):
            rejected.nack(wait=True)
        letters: list[tidings.DeadLetter] = []
        while not letters:
            letters = list(client.dead_letters(subscription.name))
        assert letters[0].failure == tidings.Failure("tidings.Reject", "no order")


def test_the_time_of_a_running_handler_is_extended(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client:
        attempts: list[int] = []
        overdue = threading.Event()

        @client.on("orders", "created", ack_timeout=0.2, start="earliest")
        def handle(message: tidings.sync.Message) -> None:
            attempts.append(message.attempt)
            overdue.wait(10)
            threading.Thread(target=client.close).start()

        client.publish("orders", "created", 1)
        with tidings.sync.connect(url, client_id="watch") as other:
            # A message of another subscription whose time runs out meanwhile shows how much has passed.
            with other.subscribe("orders", "created", ack_timeout=0.2, backoff_max=0.001, start="earliest") as watched:
                running = threading.Thread(target=client.run)
                running.start()
                for message in watched:
                    if message.attempt == 3:
                        overdue.set()
                        message.ack()
                        break
            running.join(10)
        assert attempts == [1]


def test_errors_are_the_same(url: str) -> None:
    with tidings.sync.connect(url) as client:
        with pytest.raises(tidings.InvalidName):
            client.publish("or ders", "created", 1)
        with pytest.raises(tidings.NotFound):
            client.delete_queue("nothing")
        with pytest.raises(tidings.InvalidFilter), client.subscribe("a**"):
            pass
        with pytest.raises(tidings.InvalidOption, match="no handlers"):
            client.run()


def test_listings_and_deletions(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client:
        client.publish("orders", "created", 1)
        with client.subscribe("orders"):
            assert [info.client_id for info in client.clients()] == ["me"]
        client.delete_subscription("me:orders/#")
        assert client.subscriptions() == []
        client.delete_queue("orders")
        assert "orders" not in [info.name for info in client.queues()]


def test_a_client_and_a_subscription_show_who_they_are(url: str) -> None:
    with tidings.sync.connect(url, client_id="billing") as client, client.subscribe("orders", "created") as orders:
        assert repr(client) == "<Client billing, connected>"
        assert "'billing:orders/created' of orders/created, attached" in repr(orders)


def test_a_client_that_is_not_open_says_so() -> None:
    client = tidings.sync.connect("memory:")
    with pytest.raises(tidings.InvalidOption, match="not open"):
        client.publish("orders", "created", 1)
    client.close()


def test_nobody_there_is_an_error_and_leaves_no_thread() -> None:
    with pytest.raises(tidings.Unavailable):
        tidings.sync.connect("tidings://127.0.0.1:1", reconnect=False).open()
    assert "tidings client" not in [thread.name for thread in threading.enumerate()]


def test_every_verb_takes_what_its_namesake_takes() -> None:
    for kind in ("Client", "Subscription", "Message", "MessageBatch"):
        for name, verb in inspect.getmembers(getattr(tidings, kind), inspect.isfunction):
            if not name.startswith("_"):
                namesake = inspect.signature(getattr(getattr(tidings.sync, kind), name))
                assert list(namesake.parameters)[1:] == list(inspect.signature(verb).parameters)[1:], f"{kind}.{name}"


def test_many_are_published_with_a_ttl(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client, client.subscribe("orders") as subscription:
        client.pause(subscription.name)
        client.publish_many("orders", "created", [1], ttl=0.001)
        stored_s = time.monotonic()
        while time.monotonic() <= stored_s + 0.01:  # the server counts whole milliseconds
            client.publish_many("orders", "created", [2])
        client.resume(subscription.name)
        assert [message.payload for message in take(subscription, 1)] == [2]


def test_a_handler_that_cannot_begin_leaves_no_subscription_attached(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client, tidings.sync.connect(url, client_id="other") as other:
        taken = other.subscribe("bills", name="taken")
        taken.attach()
        client.on("orders")(lambda message: None)
        client.on("bills", name="taken")(lambda message: None)
        with pytest.raises(tidings.SubscriptionConflict):
            client.run()
        assert {info.name: info.connected for info in client.subscriptions()} == {"me:orders/#": False, "taken": True}


async def asynchronous(message: tidings.sync.Message) -> None:
    message.ack()


@pytest.mark.parametrize("function", [asynchronous, partial(asynchronous), None])
def test_a_handler_that_threads_cannot_run_is_refused(url: str, function: Any) -> None:
    with tidings.sync.connect(url) as client, pytest.raises(tidings.InvalidOption, match="handler"):
        client.on("orders")(function)


def test_what_a_handler_has_not_done_is_not_acked(url: str) -> None:
    with tidings.sync.connect(url, client_id="me") as client:
        client.on("orders", name="orders", start="earliest", attempts_max=1)(lambda message: asynchronous(message))
        client.publish("orders", "created", 1)
        running = threading.Thread(target=client.run)
        running.start()
        letters: list[tidings.DeadLetter] = []
        while not letters:
            letters = list(client.dead_letters("orders")) if client.subscriptions() else []
        assert letters[0].failure is not None
        assert "whose work is not done" in letters[0].failure.text
    running.join(10)


def test_every_ack_after_the_end_is_reported_and_none_is_kept(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "tidings")
    with tidings.sync.connect(url, client_id="me") as client:
        subscription = client.subscribe("orders", start="earliest")
        client.publish_many("orders", "created", range(3))
        messages = take(subscription, 3)
    for message in messages:
        message.ack()
    late = [record for record in caplog.records if "came after" in record.message]
    assert [record.levelname for record in late] == ["WARNING", "DEBUG", "DEBUG"]
    assert not subscription._acks


def test_what_a_transaction_raises_is_raised_also_where_the_client_is_closed(url: str) -> None:
    def fail(client: tidings.sync.Client) -> None:
        client.close()
        raise ZeroDivisionError

    with tidings.sync.connect(url) as client, pytest.raises(ZeroDivisionError), client.transaction():
        fail(client)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_client_says_in_a_forked_process_that_it_stayed_behind(url: str) -> None:
    with tidings.sync.connect(url) as client, client.subscribe("bills") as bills:
        client.publish("bills", "created", 1)
        (bill,) = take(bills, 1)
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(20)  # else it might wait for ever, and the test for it
            try:
                for verb in (lambda: client.publish("orders", "created", 1), bill.ack):
                    try:
                        verb()
                    except tidings.ConnectionLost as error:
                        os.write(tell, error.text.encode())
            finally:
                client.close()
                os._exit(0)
        os.waitpid(child, 0)
        os.close(tell)
        with open(told, "rb") as text:
            assert text.read().count(b"forked; connect anew") == 2
        assert client.publish("orders", "created", 1).sequence == 1


def test_an_interrupted_run_acks_what_is_being_handled_and_begins_nothing_more(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, interrupted = threading.Event(), threading.Event()
    handled: list[int] = []
    wait_for = tidings.sync.handlers.wait_for

    def wait_until_interrupted(*args: Any, **options: Any) -> Any:
        try:
            waiting.set()
            return wait_for(*args, **options)
        except KeyboardInterrupt:
            interrupted.set()
            raise

    monkeypatch.setattr(tidings.sync.handlers, "wait_for", wait_until_interrupted)
    with tidings.sync.connect(url, client_id="me") as client:

        @client.on("orders", start="earliest")
        def handle(message: tidings.sync.Message) -> None:
            assert waiting.wait(10)
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupted.wait(10)
            handled.append(message.payload)

        client.publish_many("orders", "created", [1, 2])
        with pytest.raises(KeyboardInterrupt):
            client.run()
        (info,) = client.subscriptions()
        assert (handled, info.cursor, info.connected) == ([1], 1, False)


@contextmanager
def signalled(monkeypatch: pytest.MonkeyPatch, moment: str, handle: Callable[[], object]) -> Iterator[None]:
    """Lets a signal come just before, or after, the next call of a client is given to its thread."""
    begin = asyncio.run_coroutine_threadsafe

    def interrupted(*args: Any) -> Any:
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", begin)
        if moment == "before":
            signal.raise_signal(signal.SIGTERM)
        future = begin(*args)
        if moment == "after":
            signal.raise_signal(signal.SIGTERM)
        return future

    former = signal.signal(signal.SIGTERM, lambda number, frame: handle())
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_handler_of_signals_may_use_the_client_that_it_interrupts(
    url: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with tidings.sync.connect(url) as client:
        with signalled(monkeypatch, moment, lambda: client.publish("orders", "created", "of the handler")):
            client.publish("orders", "created", "of the program")
        assert {message.payload for message in client.peek("orders")} == {"of the handler", "of the program"}


def test_a_handler_of_signals_may_close_the_client_that_it_interrupts(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        tidings.sync.connect(url) as client,
        signalled(monkeypatch, "before", client.close),
        pytest.raises(tidings.ConnectionLost, match="closed"),
    ):
        client.publish("orders", "created", "too late")
    with tidings.sync.connect(url) as client, signalled(monkeypatch, "after", client.close):
        assert client.publish("orders", "created", "in time").sequence == 1


def test_a_client_is_not_closed_from_its_own_thread(url: str) -> None:
    with tidings.sync.connect(url) as client:

        def payloads() -> Iterator[int]:
            yield 1
            with pytest.raises(tidings.InvalidOption, match="another thread"):
                client.close()
            yield 2

        (confirm,) = client.publish_many("orders", "created", payloads())
        assert confirm.count == 2
        assert client.publish("orders", "created", 3).sequence == 3


def test_an_interrupt_while_messages_come_loses_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tidings.sync.loop.Loop.run

    def interrupted(loop: tidings.sync.loop.Loop, coroutine: Any) -> NoReturn:
        run(loop, coroutine)
        raise KeyboardInterrupt

    with tidings.sync.connect(url, client_id="me") as client, client.subscribe("orders") as subscription:
        client.publish("orders", "created", 1)
        client.publish("orders", "created", 2)
        with monkeypatch.context() as patch:
            patch.setattr(tidings.sync.loop.Loop, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(iter(subscription))
        assert [message.payload for message in take(subscription, 2)] == [1, 2]


def test_an_interrupted_ack_keeps_no_later_one_from_being_sent(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    with tidings.sync.connect(url, client_id="me") as client, client.subscribe("orders") as subscription:
        client.publish("orders", "created", 1)
        client.publish("orders", "created", 2)
        first, second = take(subscription, 2)
        with monkeypatch.context() as patch:
            patch.setattr(subscription._loop.loop, "call_soon_threadsafe", interrupted)
            with pytest.raises(KeyboardInterrupt):
                first.ack()
        second.ack()
        assert client.subscriptions()[0].cursor == 2
