"""What an application passes or does wrong is told to it at once, and costs it nothing else."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import msgspec
import pytest

import tidings

_NOW = datetime.now()  # without a zone
Verb = Callable[[tidings.Client], Coroutine[Any, Any, object]]


@pytest.fixture
def url() -> str:
    return f"memory:{uuid4().hex}"


@pytest.fixture
async def client(url: str) -> AsyncIterator[tidings.Client]:
    async with asyncio.timeout(30), tidings.connect(url, client_id="me") as client:
        yield client


async def one(client: tidings.Client, **options: Any) -> tuple[tidings.Subscription, tidings.Message]:
    """Returns a new subscription to a queue, and a message of it."""
    subscription = client.subscribe("orders", **options)
    await subscription.attach()
    await client.publish("orders", "created", 1)
    return subscription, await anext(aiter(subscription))


BAD_CALLS: list[tuple[str, Verb]] = [
    ("no name at all", lambda client: client.delete_queue(None)),  # type: ignore[arg-type]
    ("not a string", lambda client: client.delete_subscription(5)),  # type: ignore[arg-type]
    ("an object", lambda client: client.pause(object())),  # type: ignore[arg-type]
    ("not UTF-8", lambda client: client.purge("\ud800")),
    ("too large", lambda client: client.purge("x" * 2_000_000)),
    ("above 64 bits", lambda client: client.delete_message("orders", 2**70)),
    ("a content type that is not UTF-8", lambda client: client.publish("q", "e", b"", content_type="a/\ud800")),
    ("a content type too long in bytes", lambda client: client.publish("q", "e", b"", content_type="ä" * 200)),
    ("a timedelta for a time limit", lambda client: client.publish("q", "e", 1, timeout=timedelta(1))),  # type: ignore[arg-type]
    ("a string for a time limit", lambda client: client.queues(timeout="5")),  # type: ignore[arg-type]
    ("no number for a time limit", lambda client: client.request("q", "e", 1, timeout=float("nan"))),
    ("a date without time", lambda client: client.publish("q", "e", 1, at=date(2030, 1, 1))),  # type: ignore[arg-type]
    ("a list for headers", lambda client: client.request("q", "e", 1, headers=["a"])),  # type: ignore[arg-type]
    ("less than nothing for a time limit", lambda client: client.publish("q", "e", 1, timeout=-1)),
    ("a bool for a time limit", lambda client: client.queues(timeout=True)),
    ("a time limit of a subscription", lambda client: client.subscribe("q", timeout=-1).attach()),
    ("a time limit for closing", lambda client: client.close("5")),  # type: ignore[arg-type]
    ("the first of all times", lambda client: client.publish("q", "e", 1, at=datetime.min)),
    ("a text for many payloads", lambda client: client.publish_many("q", "e", "text")),
    ("bytes for many payloads", lambda client: client.publish_many("q", "e", b"bytes")),
    ("a dict for many payloads", lambda client: client.publish_many("q", "e", {"id": 1})),
    ("no iterable for many payloads", lambda client: client.publish_many("q", "e", 5)),  # type: ignore[arg-type]
    ("no type", lambda client: client.request("q", "e", 1, type=5)),
    ("no type of a subscription", lambda client: client.subscribe("q", type=5).attach()),
    ("a text for a bool", lambda client: client.subscribe("q", shared="s", single_active="yes").attach()),  # type: ignore[arg-type]
    ("a place that replays do not begin at", lambda client: client.replay("q", from_="latest").attach()),  # type: ignore[arg-type]
    ("times with and without zone", lambda client: client.replay("q", from_=_NOW, to=_NOW.astimezone()).attach()),
    ("a rate of nothing", lambda client: client.redrive("s", rate=0)),
    ("an event without a name", lambda client: client.put_webhook("w", "http://example.com/", "q", "")),
    ("a number for a path", lambda client: client.backup(5)),  # type: ignore[arg-type]
    ("bytes for a path", lambda client: client.backup(b"copy.db")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("verb", [verb for _, verb in BAD_CALLS], ids=[what for what, _ in BAD_CALLS])
async def test_what_cannot_be_sent_is_refused_and_the_client_goes_on(client: tidings.Client, verb: Verb) -> None:
    with pytest.raises(tidings.InvalidInput):
        await verb(client)
    assert client.connected
    await client.publish("orders", "created", 1, timeout=20)


@pytest.mark.parametrize("place", [("from_", "first"), ("from_", True), ("to", "last")])
async def test_what_is_said_of_a_replay_is_said_of_its_own_words(client: tidings.Client, place: Any) -> None:
    word = {"from_": "'earliest'", "to": "'latest'"}[place[0]]
    with pytest.raises(tidings.InvalidOption, match=f"^{place[0]} .* is not {word}, a sequence"):
        client.replay("orders", **dict([place]))


async def test_after_a_time_limit_another_iterator_goes_on(client: tidings.Client) -> None:
    async with client.subscribe("orders") as subscription:
        for sequence in (1, 2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await anext(aiter(subscription))
            await client.publish("orders", "created", sequence)
            assert (await anext(aiter(subscription))).sequence == sequence


async def test_a_message_of_another_subscription_is_not_acked(client: tidings.Client) -> None:
    subscription, message = await one(client)
    other, _ = await one(client, name="other")
    stored = (await client.peek("orders"))[0]
    for wrong in (message, stored, 1, None):
        with pytest.raises(tidings.InvalidOption, match="not handed over by subscription 'other'"):
            await other.ack_to(wrong)  # type: ignore[arg-type]
    transaction = client.transaction()
    for wrong in (stored, 1, None):
        with pytest.raises(tidings.InvalidOption, match="no message of a subscription"):
            await transaction.ack(wrong)  # type: ignore[arg-type]
    await subscription.ack_to(message, wait=True)
    assert {info.name: info.cursor for info in await client.subscriptions()} == {"me:orders/#": 1, "other": 1}


def test_a_client_is_used_on_the_loop_that_it_was_opened_on(url: str) -> None:
    async def opened() -> tidings.Client:
        client = tidings.connect(url)
        await client.open()
        return client

    client = asyncio.run(opened())
    for verb in (client.close, client.queues, client.subscribe("orders").attach, partial(client.publish, "q", "e", 1)):
        with pytest.raises(tidings.InvalidOption, match="another event loop"):
            asyncio.run(verb())


@pytest.mark.parametrize("ends", [(1.0, 1.0), ("1", "1"), (True, True), (1, 2**70), (2, 1), (0, 1)])
async def test_a_range_that_is_none_is_not_acked(client: tidings.Client, ends: tuple[Any, Any]) -> None:
    subscription, message = await one(client)
    with pytest.raises(tidings.InvalidOption, match="whole numbers"):
        await subscription.ack(*ends)
    await message.ack(wait=True)


async def test_a_path_is_a_place_for_a_backup(tmp_path: Path) -> None:
    async with asyncio.timeout(30), tidings.connect(tmp_path / "events.db") as client:
        await client.backup(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").exists()


@pytest.mark.parametrize("sentence", ["no file named \udcff", "x" * 2_000_000], ids=["not UTF-8", "very long"])
async def test_every_sentence_can_be_the_reason_of_a_nack(client: tidings.Client, sentence: str) -> None:
    subscription, message = await one(client, attempts_max=1)
    await message.nack(error=sentence)
    await client.queues()  # answered after the nack
    [letter] = [letter async for letter in client.dead_letters(subscription.name)]
    failure = letter.failure
    assert failure is not None
    assert failure.text in ("no file named \\udcff", "x" * 1_000)


async def test_a_class_is_no_reason_of_a_nack(client: tidings.Client) -> None:
    _, message = await one(client)
    with pytest.raises(tidings.InvalidOption, match="neither an exception nor a sentence"):
        await message.nack(error=ValueError)  # type: ignore[arg-type]


async def test_a_type_that_fails_by_itself_fails_its_message_alone(client: tidings.Client) -> None:
    class Order(msgspec.Struct):
        amount: int

        def __post_init__(self) -> None:
            if self.amount < 0:
                raise KeyError("amount")

    handled: list[int] = []

    @client.on("orders", type=Order, start="earliest")
    async def handle(message: tidings.Message[Order]) -> None:
        handled.append(message.payload.amount)
        await client.close()

    await client.publish_many("orders", "created", [{"amount": -1}, {"amount": 1}])
    message = await anext(aiter(client.replay("orders", type=Order)))
    with pytest.raises(tidings.InvalidPayload, match="KeyError: 'amount'"):
        print(message.payload)
    await client.run()
    assert handled == [1]


async def test_a_handler_may_raise_what_cannot_be_told(
    client: tidings.Client, caplog: pytest.LogCaptureFixture
) -> None:
    class Silent(Exception):
        def __str__(self) -> NoReturn:
            raise RuntimeError("no words")

    @client.on("orders", attempts_max=1, start="earliest", concurrency=None)  # type: ignore[arg-type]
    async def handle(message: tidings.Message) -> None:
        if message.sequence == 1:
            raise Silent
        await client.close()

    await client.publish_many("orders", "created", range(2))
    await client.run()
    assert "its message cannot be told: RuntimeError" in caplog.text


async def yields(message: tidings.Message) -> AsyncIterator[int]:
    yield message.sequence


def yields_at_once(message: tidings.Message) -> Iterator[int]:
    yield message.sequence


@pytest.mark.parametrize("function", [None, "handle", 5, yields, yields_at_once, partial(yields)])
async def test_what_would_not_run_is_no_handler(client: tidings.Client, function: Any) -> None:
    with pytest.raises(tidings.InvalidOption, match="handler"):
        client.on("orders")(function)


async def test_what_a_handler_has_not_done_is_not_acked(client: tidings.Client) -> None:
    subscription, _ = await one(client, name="orders")
    await subscription.close()
    client.on("orders", name="orders", attempts_max=1)(lambda message: yields(message))
    running = asyncio.create_task(client.run())
    letters: list[tidings.DeadLetter] = []
    while not letters:
        letters = [letter async for letter in client.dead_letters("orders")]
    assert letters[0].failure is not None
    assert "whose work is not done" in letters[0].failure.text
    running.cancel()


async def test_a_message_is_acked_in_transactions_of_its_own_client(url: str, client: tidings.Client) -> None:
    async with tidings.connect(url, client_id="other") as other:
        _, mine = await one(client)
        _, others = await one(other)
        async with client.transaction() as transaction:
            with pytest.raises(tidings.InvalidOption, match="delivered to another client"):
                await transaction.ack(others)
            await transaction.ack(mine)
        assert {info.name: info.cursor for info in await other.subscriptions()} == {
            "me:orders/#": 1,
            "other:orders/#": 1,
        }


async def test_a_client_that_was_closed_is_not_opened(url: str) -> None:
    client = tidings.connect(url)
    await client.close()
    with pytest.raises(tidings.InvalidOption, match="opened once"):
        await client.open()


async def test_a_request_whose_client_ends_leaves_no_error_behind(
    client: tidings.Client, caplog: pytest.LogCaptureFixture
) -> None:
    requesting = asyncio.create_task(client.request("orders", "created", 1))
    await asyncio.sleep(0)
    await client.close(timeout=0)
    with pytest.raises(tidings.ConnectionLost):
        await requesting
    del requesting
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
