"""Conversations: what doors say to a node from inside its process, and how they are held back."""

import asyncio

import pytest

from tests.unit.node.test_node import DEADLINE_S, FailingStore, failure, running
from tidings import limits
from tidings.broker import effects, inputs
from tidings.calls import ConfigureSubscription
from tidings.errors import (
    ClientIdInUse,
    ConnectionLost,
    Draining,
    InvalidName,
    NeverDelivered,
    NotFound,
    StoreUnavailable,
    SystemQueue,
    TakenOver,
)
from tidings.node import Attachment, Conversation, Delivery, Draft, Node, open_conversation
from tidings.store.memory import MemoryStore
from tidings.store.port import CommitFailed

ALL = inputs.Subscribe(queue="orders", event="#")


async def opened(node: Node, client_id: str | None = None, **options: bool) -> Conversation:
    """Returns a conversation that is let in."""
    return await open_conversation(node, client_id=client_id, protocol="test", address="here", **options)


async def deliveries(attachment: Attachment, count: int) -> list[Delivery]:
    """Returns the next messages."""
    async with asyncio.timeout(DEADLINE_S):
        found = [await attachment.next() for _ in range(count)]
    assert all(isinstance(each, Delivery) for each in found)
    return found  # type: ignore[return-value]


async def test_what_is_published_is_confirmed_and_delivered_with_all_it_carries() -> None:
    async with running(MemoryStore()) as node:
        reader, writer = await opened(node, "reader"), await opened(node)
        attachment = await reader.subscribe(ALL)
        assert (attachment.name, attachment.durable, attachment.created) == ("reader:orders/#", True, True)
        [confirm] = await writer.publish(
            "orders", [Draft("created", b"1", id="a", key="k", headers={"h": "v"}), Draft("paid", b"\0", "x/y")]
        )
        assert (confirm.first_sequence, confirm.subscriptions) == (1, [1, 1])
        first, second = await deliveries(attachment, 2)
        assert first[2:9] == (1, "created", b"1", "application/json", "a", "k", {"h": "v"})
        assert second[2:9] == (2, "paid", b"\0", "x/y", None, None, None)
        assert (first.queue, first.epoch, first.attempt, first.redriven) == ("orders", confirm.epoch, 1, False)


async def test_acked_messages_do_not_come_again_and_others_do() -> None:
    async with running(MemoryStore()) as node:
        reader = await opened(node, "reader")
        attachment = await reader.subscribe(ALL)
        [confirm] = await reader.publish("orders", [Draft("created", b"%d" % number) for number in range(3)])
        await deliveries(attachment, 3)
        await attachment.ack([(confirm.epoch, 1, 1), (confirm.epoch, 3, 3)])
        await attachment.detach()
        again = await reader.subscribe(ALL)
        [left] = await deliveries(again, 1)
        assert left.sequence == 2
        await again.nack([(confirm.epoch, 2, 2)], delay_ms=0)
        [left] = await deliveries(again, 1)
        assert (left.sequence, left.attempt) == (2, 2)
        await again.extend([(confirm.epoch, 2, 2)])
        again.ack_soon([(confirm.epoch, 2, 2)])
        with pytest.raises(NeverDelivered):
            await again.ack([(confirm.epoch, 9, 9)])


async def test_who_pulls_has_what_is_there_once_that_was_answered() -> None:
    async with running(MemoryStore()) as node:
        reader = await opened(node, "reader")
        attachment = await reader.subscribe(inputs.Subscribe(queue="orders", event="#", pulls=True))
        await reader.publish("orders", [Draft("created", b"%d" % number) for number in range(3)])
        assert attachment.take() is None
        await attachment.ask(2)
        found = await deliveries(attachment, 2)
        assert ([each.payload for each in found], attachment.take()) == ([b"0", b"1"], None)


async def test_refusals_are_raised_and_the_conversation_goes_on() -> None:
    async with running(MemoryStore()) as node:
        one = await opened(node)
        with pytest.raises(SystemQueue):
            await one.publish("$presence", [Draft("x", b"")])
        with pytest.raises(InvalidName):
            await one.publish("orders", [Draft("good", b""), Draft("not good", b"")])
        with pytest.raises(NotFound):
            await one.delete("queue", "orders")
        with pytest.raises(NotFound):
            await one.call(ConfigureSubscription(name="nobody", attempts_max=3))
        assert [entry.name for entry in (await one.list("queues")).entries] == ["$presence"]
        [confirm] = await one.publish("orders", [Draft("good", b"")])
        assert confirm.first_sequence == 1
        await one.delete("queue", "orders")


async def test_a_publish_that_the_store_refuses_is_refused_and_can_be_tried_again() -> None:
    store = FailingStore()
    async with running(store) as node:
        one = await opened(node)
        store.troubles = [failure(CommitFailed("broken"))]
        with pytest.raises(StoreUnavailable):
            await one.publish("orders", [Draft("created", b"")])
        [confirm] = await one.publish("orders", [Draft("created", b"")])
        assert confirm.first_sequence == 1


async def test_a_client_id_is_held_until_the_conversation_ends_or_is_taken_over() -> None:
    async with running(MemoryStore()) as node:
        first = await opened(node, "billing")
        with pytest.raises(ClientIdInUse):
            await opened(node, "billing")
        attachment = await first.subscribe(ALL)
        told: list[Exception] = []
        first._closed = told.append
        second = await opened(node, "billing", take_over=True)
        with pytest.raises(TakenOver):
            await attachment.next()
        assert [type(error) for error in told] == [TakenOver]
        with pytest.raises(TakenOver):
            await first.publish("orders", [Draft("created", b"")])
        second.close()
        await opened(node, "billing")


async def test_who_takes_nothing_is_delivered_no_more_than_fits_and_then_all() -> None:
    async with running(MemoryStore()) as node:
        reader, writer = await opened(node, "reader"), await opened(node)
        attachment = await reader.subscribe(ALL)
        count, size = 32, limits.PAYLOAD_SIZE_BYTES_MAX // 4
        for number in range(count):
            await writer.publish("orders", [Draft("created", bytes([number]) * size)])
        # Far below what was published: the first megabyte, and what one round brought on top.
        assert reader._waiting_bytes < limits.SEND_BUFFER_BYTES_MAX + 2 * limits.FETCH_SIZE_BYTES + 2 * size
        found = await deliveries(attachment, count)
        assert [delivery.payload[0] for delivery in found] == list(range(count))
        assert reader._waiting_bytes == 0


async def test_publishing_waits_while_the_node_takes_no_more_and_keeps_its_order() -> None:
    store = FailingStore()
    async with running(store) as node:
        one = await opened(node)
        store.gate.clear()
        drafts = [[Draft("created", bytes([number]) * limits.PAYLOAD_SIZE_BYTES_MAX)] for number in range(20)]
        tasks = [asyncio.ensure_future(one.publish("orders", draft)) for draft in drafts]
        async with asyncio.timeout(DEADLINE_S):
            while not one._paused:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0)
        held_bytes = sum(node._published._sums.values())
        assert held_bytes <= limits.CONNECTION_PENDING_BYTES_MAX + 2 * limits.PAYLOAD_SIZE_BYTES_MAX
        store.gate.set()
        async with asyncio.timeout(DEADLINE_S):
            confirms = await asyncio.gather(*tasks)
        assert [confirm.first_sequence for [confirm] in confirms] == list(range(1, 21))


async def test_a_drain_ends_it_with_the_advice_to_come_back() -> None:
    async with running(MemoryStore()) as node:
        one = await opened(node, "reader")
        attachment = await one.subscribe(ALL)
        waiting = asyncio.ensure_future(attachment.next())
        await node.drain()
        with pytest.raises(Draining):
            async with asyncio.timeout(DEADLINE_S):
                await waiting


async def test_closing_refuses_what_waits_and_gives_back_what_is_in_flight_without_counting() -> None:
    async with running(MemoryStore()) as node:
        one = await opened(node, "reader")
        attachment = await one.subscribe(ALL)
        await one.publish("orders", [Draft("created", b"1")])
        await deliveries(attachment, 1)
        waiting = asyncio.ensure_future(attachment.next())
        await asyncio.sleep(0)
        one.close()
        one.close()
        with pytest.raises(ConnectionLost):
            await waiting
        other = await opened(node, "reader")
        [again] = await deliveries(await other.subscribe(ALL), 1)
        assert again.attempt == 1


async def test_a_cancelled_subscribe_leaves_nothing_attached() -> None:
    async with running(MemoryStore()) as node:
        one = await opened(node, "reader")
        task = asyncio.ensure_future(one.subscribe(ALL))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        listing = await one.list("subscriptions")
        assert [entry.connected for entry in listing.entries if not isinstance(entry, effects.Listing)] in ([], [False])
        await one.subscribe(ALL)
