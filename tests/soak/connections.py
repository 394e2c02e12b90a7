"""Connections: thousands are opened and dropped, at once and in waves; the server's memory and descriptors return."""

import asyncio
import os
import random
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import tidings
from tests.integration.processes import Server, eventually
from tidings.wire import Goodbye, Hello
from tidings.wire.codec import encode
from tidings.wire.frames import VERSION

_LIMITED_AT_ONCE = 500  # connections that wait to be accepted; the system answers more of them only after a second
_SPARE_DESCRIPTORS = 200
_KEPT_BYTES_MAX = 1_500  # of memory for each connection of a wave, above what the first wave needed
_WAYS = ("nothing", "half a greeting", "rubbish", "reset", "farewell")
_numbers = count(1)


@contextmanager
def many_descriptors(connections: int) -> Iterator[None]:
    """Raises this process's limit of descriptors, and with it that of the server it starts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _SPARE_DESCRIPTORS
    assert before[1] == resource.RLIM_INFINITY or before[1] >= needed, f"ulimit -Hn {before[1]}, needed are {needed}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], needed), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def run(
    directory: Path, *, connections: int, waves: int, seed: int, program: Sequence[str | Path] = ("-m", "tidings")
) -> str:
    """Opens and drops connections; returns what it saw."""
    chance = random.Random(seed)
    with many_descriptors(connections), Server(directory, program=program) as server:
        async with tidings.connect(server.url, client_id="resident") as client:
            await client.publish("orders", "made", 1)
            held = _descriptors(server)
            await _wave(server, connections, connections, chance)  # the first one: what an allocator keeps, it keeps
            await _returned(server, held)
            before_bytes = server.process.resident_bytes()
            for wave in range(waves):
                # All at once, or a few at a time.
                await _wave(server, connections, connections if wave % 2 == 0 else connections // 20, chance)
                await _returned(server, held)
                await client.publish("orders", "made", wave)
            grown_bytes = server.process.resident_bytes() - before_bytes
            allowed = _KEPT_BYTES_MAX * connections
            assert grown_bytes < allowed, f"{grown_bytes:,} bytes more after {waves} waves of {connections} connections"
            [info] = [info for info in await client.clients() if info.connected]
            assert info.client_id == "resident"
        assert server.terminate() == 0, server.log.read_text()
    return f"{(waves + 1) * connections:,} connections opened and dropped; memory grew by {grown_bytes:,} bytes"


async def half_greetings_end(directory: Path, *, connections: int) -> None:
    """Connections that stay and never finish their greeting are closed by the server."""
    with many_descriptors(connections), Server(directory) as server:
        held = _descriptors(server)
        open_ones = [await _connected(server.port) for _ in range(connections)]
        for connection in open_ones:
            connection.send(_greeting()[:7])
        await eventually(lambda: _descriptors(server) >= held + connections, what="all are accepted")
        await _returned(server, held)
        for connection in open_ones:
            connection.close()


async def _wave(server: Server, connections: int, at_once: int, chance: random.Random) -> None:
    """Opens connections, `at_once` of them open at a time, and drops each in some way."""
    for _ in range(connections // at_once):
        room = asyncio.Semaphore(_LIMITED_AT_ONCE)

        async def connected(room: asyncio.Semaphore = room) -> socket.socket:
            async with room:
                return await _connected(server.port)

        opened = await asyncio.gather(*[connected() for _ in range(at_once)])
        for connection in opened:
            _drop(connection, chance.choice(_WAYS))
    # They wait in line to be accepted: once this one was, all were.
    async with tidings.connect(server.url) as client:
        await client.publish("orders", "made", "last in line")


async def _connected(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return connection


def _drop(connection: socket.socket, way: str) -> None:
    greeting = _greeting()
    try:
        if way == "half a greeting":
            connection.send(greeting[: len(greeting) // 2])
        elif way == "rubbish":
            connection.send(b"GET / HTTP/1.1\r\n\r\n")
        elif way == "reset":
            connection.send(greeting)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif way == "farewell":
            connection.send(greeting + encode(Goodbye("", "")))
    except ConnectionError:
        pass  # the server was quicker
    connection.close()


def _greeting() -> bytes:
    return encode(Hello(VERSION, None, f"stranger-{next(_numbers)}", "", False))


async def _returned(server: Server, held: int) -> None:
    await eventually(lambda: _descriptors(server) <= held, what="the server has let go of all connections")


def _descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))
