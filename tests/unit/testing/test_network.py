"""The simulated network keeps order within a connection, and loses what it should."""

import asyncio
import random

import pytest

from tidings.testing.network import Network, NetworkFaults, SimulatedDialer, Transport
from tidings.testing.virtual_time import run


class Recorder(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.chunks = 0
        self.writable = True
        self.lost: list[Exception | None] = []
        self.transport: Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.chunks += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True


async def connect(seed: int = 1) -> tuple[Recorder, Recorder, SimulatedDialer]:
    network = Network(random.Random(seed), NetworkFaults(chunk_bytes_max=100))
    client, server = Recorder(), Recorder()
    network.listen(lambda: server)
    dialer = SimulatedDialer(network, "client")
    await dialer.dial(lambda: client)
    return client, server, dialer


def sent(recorder: Recorder) -> Transport:
    assert recorder.transport is not None
    return recorder.transport


@pytest.mark.parametrize("seed", range(10))
def test_bytes_arrive_in_order_in_pieces(seed: int) -> None:
    async def main() -> None:
        client, server, _ = await connect(seed)
        data = bytes(range(256)) * 20
        sent(client).writelines([data[:1000], data[1000:]])
        await asyncio.sleep(60)
        assert server.data == data
        assert server.chunks > 20

    run(main())


def test_a_receiver_that_does_not_read_pauses_the_sender() -> None:
    async def main() -> None:
        client, server, _ = await connect()
        sent(server).pause_reading()
        sent(client).write(bytes(1_000_000))
        await asyncio.sleep(60)
        assert not client.writable
        assert server.data == b""
        sent(server).resume_reading()
        await asyncio.sleep(600)
        assert client.writable
        assert len(server.data) == 1_000_000

    run(main())


def test_closing_sends_what_waits_and_tells_both_ends() -> None:
    async def main() -> None:
        client, server, _ = await connect()
        sent(client).write(bytes(100_000))
        sent(client).close()
        await asyncio.sleep(60)
        assert len(server.data) == 100_000
        assert client.lost == server.lost == [None]

    run(main())


def test_an_end_that_does_not_notice_a_cut_believes_in_the_connection() -> None:
    async def main() -> None:
        client, server, _ = await connect()
        sent(client).connection.cut(client_notices=False)
        sent(client).write(b"lost")
        await asyncio.sleep(60)
        assert client.lost == []
        assert len(server.lost) == 1
        assert server.data == b""

    run(main())


def test_a_killed_process_sends_nothing_and_is_told_nothing() -> None:
    async def main() -> None:
        client, server, dialer = await connect()
        sent(client).write(b"too late")
        dialer.kill()
        await asyncio.sleep(60)
        assert client.lost == []
        assert len(server.data) in (0, len(b"too late"))  # it may have been on its way
        with pytest.raises(ConnectionRefusedError):
            await dialer.dial(Recorder)

    run(main())


def test_nobody_listening_refuses_a_dial() -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await SimulatedDialer(Network(random.Random(1)), "client").dial(Recorder)

    run(main())


def test_a_deaf_end_hears_nothing_and_is_heard() -> None:
    async def main() -> None:
        client, server, _ = await connect()
        sent(client).connection.silence(sent(client))
        sent(server).write(b"lost")
        sent(client).write(b"heard")
        await asyncio.sleep(10)
        assert (client.data, server.data) == (b"", b"heard")
        assert client.lost == server.lost == []

    run(main())


def test_a_frozen_connection_loses_nothing() -> None:
    async def main() -> None:
        client, server, _ = await connect()
        connection = sent(client).connection
        connection.freeze()
        sent(client).write(b"up")
        sent(server).write(b"down")
        await asyncio.sleep(10)
        assert (client.data, server.data) == (b"", b"")
        connection.thaw()
        await asyncio.sleep(10)
        assert (client.data, server.data) == (b"down", b"up")

    run(main())


def test_what_is_stranded_arrives_after_what_comes_over_the_next_connection() -> None:
    async def main() -> None:
        heard: list[bytes] = []

        class Listener(Recorder):
            def data_received(self, data: bytes) -> None:
                heard.append(data)

        network = Network(random.Random(1), NetworkFaults(delay_s_max=0.001))
        network.listen(Listener)
        dialer = SimulatedDialer(network, "client")
        first, second = Recorder(), Recorder()
        await dialer.dial(lambda: first)
        sent(first).connection.server.hold()
        sent(first).write(b"old")
        await asyncio.sleep(1)
        old = sent(first).connection
        old.strand(1)
        await dialer.dial(lambda: second)
        assert len(first.lost) == 1
        sent(second).write(b"new")
        await asyncio.sleep(10)
        assert heard == [b"new", b"old"]
        assert (old.late_bytes, old.server.ended) == (3, True)

    run(main())
