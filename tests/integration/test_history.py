"""History: what is settled is trimmed in the background and its space used again; what is not settled stays."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
from pathlib import Path

import pytest

import tidings
from tests.integration.in_process import MovableClock, server_in_process
from tests.integration.processes import Server, eventually
from tidings import limits


@pytest.fixture(autouse=True)
def _frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the servers of this process: trimming looks often, and at every queue."""
    monkeypatch.setattr(limits, "TRIM_INTERVAL_MS", 20)
    monkeypatch.setattr("tidings.broker.retention._PAUSE_MS", 0)


async def _queue(client: tidings.Client, name: str) -> tidings.QueueInfo:
    [info] = [info for info in await client.queues() if info.name == name]
    return info


async def test_history_goes_after_its_age_and_what_is_not_settled_stays(tmp_path: Path) -> None:
    clock = MovableClock()
    async with server_in_process(tmp_path / "events.db", clock) as url:
        async with tidings.connect(url, client_id="slow") as client:
            async with client.subscribe("orders") as subscription:
                for number in range(10):
                    await client.publish("orders", "made", number)
                messages = aiter(subscription)
                taken = [await anext(messages) for _ in range(10)]
                await subscription.ack_to(taken[5], wait=True)
            clock.advance(hours=23)
            assert (await _queue(client, "orders")).first_sequence == 1
            clock.advance(hours=2)
            await eventually(lambda: _begins_at(client, "orders", 7))
            info = await _queue(client, "orders")
            assert (info.messages, info.held_by) == (4, "slow:orders/#")
            async with client.subscribe("orders") as subscription, asyncio.timeout(30):
                messages = aiter(subscription)
                left = [await anext(messages) for _ in range(4)]
                assert [message.payload for message in left] == [6, 7, 8, 9]
                await subscription.ack_to(left[-1], wait=True)
            clock.advance(hours=25)
            await eventually(lambda: _begins_at(client, "orders", 11))
            assert (await client.publish("orders", "made", "next")).sequence == 11, "sequences are not used again"


async def _begins_at(client: tidings.Client, name: str, sequence: int) -> bool:
    return (await _queue(client, name)).first_sequence == sequence


async def test_history_over_its_bytes_goes_and_the_files_space_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HISTORY_BYTES", 2_000_000)
    monkeypatch.setattr(limits, "SQLITE_LOG_BYTES_MAX", 1_000_000)
    data_file = tmp_path / "events.db"
    payload = bytes(10_000)
    sizes = []
    async with server_in_process(data_file) as url, tidings.connect(url) as client:
        for _ in range(12):
            for _ in range(10):
                await client.publish_many("orders", "made", [payload] * 50)
            await eventually(lambda: _holds_at_most(client, "orders", 2_600_000))
            sizes.append(data_file.stat().st_size)
        info = await _queue(client, "orders")
        assert info.last_sequence == 12 * 500
    assert max(sizes) < 12_000_000, f"60 MB went through, the file grew to {sizes}"


async def _holds_at_most(client: tidings.Client, name: str, size_bytes: int) -> bool:
    return (await _queue(client, name)).bytes <= size_bytes


async def test_a_subscriber_of_trimmed_history_is_told_nothing_it_never_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HISTORY_BYTES", 0)
    async with server_in_process(tmp_path / "events.db") as url, tidings.connect(url) as client:
        for number in range(10):
            await client.publish("orders", "made", number)
        await eventually(lambda: _begins_at(client, "orders", 11))
        async with client.subscribe("orders", start="earliest") as subscription, asyncio.timeout(30):
            await client.publish("orders", "made", "next")
            message = await anext(aiter(subscription))
            assert (message.sequence, subscription.gaps) == (11, [])


async def test_an_ephemeral_reader_whose_backlog_is_trimmed_is_told_the_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server_in_process(tmp_path / "events.db") as url, tidings.connect(url) as client:
        async with client.subscribe("orders", in_flight_max=1) as subscription, asyncio.timeout(30):
            for number in range(50):
                await client.publish("orders", "made", number)
            messages = aiter(subscription)
            first = await anext(messages)
            # An ephemeral subscription holds nothing back.
            await client.configure_queue("orders", history_bytes=0)
            monkeypatch.setattr(limits, "PAGE_CACHE_BYTES", 0)
            await eventually(lambda: _begins_at(client, "orders", 51))
            await first.ack()
            await client.publish("orders", "made", "last")
            seen = [first.sequence]
            while seen[-1] != 51:
                message = await anext(messages)
                seen.append(message.sequence)
                await message.ack()
            missed = [n for gap in subscription.gaps for n in range(gap.first_sequence, gap.last_sequence + 1)]
            assert sorted(seen + missed) == list(range(1, 52)), "each is delivered or told, once"
            assert missed


async def test_an_abandoned_subscription_expires_only_if_it_was_asked_to(tmp_path: Path) -> None:
    clock = MovableClock()
    data_file = tmp_path / "events.db"
    async with server_in_process(data_file, clock) as url:
        async with tidings.connect(url, client_id="reader") as client:
            async with client.subscribe("orders", name="expiring", expires_after=3_600):
                pass
            async with client.subscribe("orders", name="kept"):
                pass
            clock.advance(hours=0.9)
            assert await _names(client) == {"expiring", "kept"}
    async with server_in_process(data_file, clock) as url, tidings.connect(url) as client:
        assert await _names(client) == {"expiring", "kept"}
        clock.advance(hours=0.2)
        await eventually(lambda: _only_kept(client))
        clock.advance(hours=24 * 365)
        assert await _names(client) == {"kept"}


async def _names(client: tidings.Client) -> set[str]:
    return {info.name for info in await client.subscriptions()}


async def _only_kept(client: tidings.Client) -> bool:
    return await _names(client) == {"kept"}


async def test_a_deleted_queue_is_gone_and_its_name_begins_a_new_life(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("orders") as subscription, asyncio.timeout(30):
            first = await client.publish("orders", "made", "old")
            messages = aiter(subscription)
            old = await anext(messages)
            await client.delete_queue("orders")
            assert "orders" not in [info.name for info in await client.queues()]
            await old.ack()  # too late, and harmless
            second = await client.publish("orders", "made", "new")
            assert second.epoch != first.epoch
            assert second.sequence == 1
            new = await anext(messages)
            assert (new.payload, new.epoch) == ("new", second.epoch)
            await new.ack(wait=True)
        with pytest.raises(tidings.NotFound):
            await client.delete_queue("nothing")
        with pytest.raises(tidings.SystemQueue):
            await client.delete_queue("$presence")


async def test_an_absent_subscriber_is_told_what_a_deleted_queue_took_along(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("orders"):
            pass
        await client.publish_many("orders", "made", range(5))
        await client.delete_queue("orders")
    server.kill()
    server.start()
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("orders") as subscription, asyncio.timeout(30):
            await client.publish("orders", "made", "new")
            assert (await anext(aiter(subscription))).payload == "new"
            [gap] = subscription.gaps
            assert (gap.queue, gap.first_sequence, gap.last_sequence) == ("orders", 1, 5)
            assert gap.reason


async def test_a_deleted_subscription_holds_nothing_back_and_begins_anew(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("orders"):
            with pytest.raises(tidings.SubscriptionInUse):
                await client.delete_subscription("reader:orders/#")
        await client.publish_many("orders", "made", range(5))
        assert (await _queue(client, "orders")).held_by == "reader:orders/#"
        await client.delete_subscription("reader:orders/#")
        assert await client.subscriptions() == []
        assert (await _queue(client, "orders")).held_by is None
        server.kill()
        server.start()
        assert await client.subscriptions() == []
        async with client.subscribe("orders") as subscription, asyncio.timeout(30):
            await client.publish("orders", "made", "new")
            assert (await anext(aiter(subscription))).payload == "new"
