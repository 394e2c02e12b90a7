"""Back-pressure: whoever is too fast or too slow costs bounded memory, and nobody loses anything by it.

The bounds are those of docs/guarantees.md, section "Memory", with room for the allocator.
"""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import tidings
from tests.integration.processes import HERE, Server, eventually
from tests.integration.raw_connection import RawConnection, publish_frame
from tidings import limits
from tidings.wire import Frame, Hello, Subscribe, Subscribed, Welcome
from tidings.wire.codec import Reader, encode
from tidings.wire.frames import SERVER_KINDS, VERSION

_MIB = 1024 * 1024


@pytest.fixture
def slow_server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, program=(HERE / "slow_server_process.py",)) as server:
        yield server


class Stalled:
    """A subscriber that reads nothing once it is attached, over a socket that buffers little."""

    def __init__(self, port: int, client_id: str, queue: str, event: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", port))
        self._reader = Reader(SERVER_KINDS, limits.DELIVERY_BODY_SIZE_BYTES_MAX)
        self._ask(Hello(VERSION, client_id, client_id), Welcome)
        self._ask(Subscribe(request=1, handle=1, queue=queue, event=event), Subscribed)

    def _ask(self, question: Frame, answer: type[Frame]) -> None:
        self.socket.sendall(encode(question))
        while True:
            for received in self._reader.receive_data(self.socket.recv(65_536)):
                assert isinstance(received.frame, answer), received.frame
                return

    def __enter__(self) -> "Stalled":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


async def test_a_server_under_full_load_keeps_to_its_shared_bounds(server: Server) -> None:
    before = server.process.resident_bytes()
    count = 160_000
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("load") as subscription:
            publishing = asyncio.create_task(client.publish_many("load", "made", (bytes(1_000),) * count))
            received = 0
            async for batch in subscription.batches():
                received += len(batch.payloads)
                await batch.ack()
                if received == count:
                    break
            assert sum(confirm.count for confirm in await publishing) == count
    assert server.process.peak_bytes() - before < 128 * _MIB


async def test_publishers_faster_than_the_disk_fill_no_memory_also_when_they_go(slow_server: Server) -> None:
    before = slow_server.process.resident_bytes()
    async with tidings.connect(slow_server.url, client_id="patient") as patient:
        publishing = asyncio.create_task(patient.publish_many("kept", "made", (bytes(100_000),) * 300))
        for _ in range(40):
            async with RawConnection(slow_server.port) as hasty:
                await hasty.greet()
                for number in range(1, 8):
                    hasty.send(*publish_frame(number, "left", bytes(1_000_000)))
                await hasty.writer.drain()
        confirms = await publishing
        assert sum(confirm.count for confirm in confirms) == 300
        async with patient.subscribe("kept", start="earliest") as subscription:
            messages = aiter(subscription)
            for sequence in range(1, 301):
                message = await anext(messages)
                assert message.sequence == sequence
                await message.ack()
        peak = slow_server.process.peak_bytes() - before
    assert peak < limits.NODE_PENDING_BYTES_MAX + 128 * _MIB


async def test_stalled_subscribers_cost_a_bounded_buffer_each_and_others_get_everything(
    slow_server: Server,
) -> None:
    server = slow_server  # its transactions are as large as they can be
    stalled_count, count = 40, 600
    payload = bytes(100_000)
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("busy", "b") as subscription:
            with ExitStack() as stack:
                for number in range(stalled_count):
                    stack.enter_context(Stalled(server.port, f"stalled-{number}", "busy", "a"))
                before = server.process.resident_bytes()

                # In turns, so that each who wants one event has copies of its own.
                publishing = asyncio.gather(
                    *(client.publish("busy", "ab"[number % 2], payload) for number in range(count))
                )
                messages = aiter(subscription)
                sequences = []
                for _ in range(count // 2):
                    message = await anext(messages)
                    sequences.append(message.sequence)
                    await message.ack()
                await publishing
                assert sequences == sorted(set(sequences)), "each once, in order"

                async def all_paused() -> bool:
                    infos = [info for info in await client.subscriptions() if info.name.startswith("stalled-")]
                    return len(infos) == stalled_count and all(info.paused and info.lag for info in infos)

                await eventually(all_paused)
                peak = server.process.peak_bytes() - before
    each = 2 * limits.SEND_BUFFER_BYTES_MAX + 2 * limits.FETCH_SIZE_BYTES
    assert peak < 96 * _MIB + stalled_count * each


async def test_idle_connections_take_little(server: Server) -> None:
    # benchmarks/memory.py has the figure; here caches that fill once are shared by fewer.
    count = 1_000
    with ExitStack() as stack:
        for number in range(100):
            stack.enter_context(Stalled(server.port, f"first-{number}", "idle", "#"))
        before = server.process.resident_bytes()
        for number in range(count):
            stack.enter_context(Stalled(server.port, f"idle-{number}", "idle", "#"))
        growth = server.process.resident_bytes() - before
    assert growth < count * 16 * 1024
