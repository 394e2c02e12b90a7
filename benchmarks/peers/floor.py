"""The floor under a durable queue: append, fdatasync and loopback of the same bytes, with nothing else done to them.

A publisher sends batches that were encoded once, a server appends what has come, syncs it, and only then answers
the publisher and sends it on to a consumer, which counts and acks. Nothing is decoded, checked, numbered or
remembered. What comes during a sync makes the next group, as it does in the real server: a thread receives, a
thread writes. It has one queue, one publisher and one subscription.

    publisher to server    size u32, batch; size 0     server to publisher    batches on disk, u64, cumulative
                           after the last
    server to consumer     size u32, batch             consumer to server     batches acked, u64, cumulative
                                                       server to consumer     size 0: the last ack is on disk
"""

import asyncio
import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from benchmarks.peers.peer import Handle, Peer, Server
from benchmarks.processes import START_TIMEOUT_S, started
from tidings import limits
from tidings.batch import encode_item

_SIZE = struct.Struct("!I")
_COUNT = struct.Struct("!Q")
_RECEIVE_BYTES = 1024 * 1024
_GROUP_BYTES_MAX = limits.COMMIT_BYTES_MAX
_BATCHES_WAITING_MAX = limits.UNCONFIRMED_BATCHES_MAX
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[Server]:
    """Starts the floor's server."""
    with started((sys.executable, "-m", "benchmarks.peers.floor", directory / "floor"), directory) as process:
        yield Server(process.hear("ready", START_TIMEOUT_S), process.id)


@contextlib.asynccontextmanager
async def connect(address: str, client_id: str) -> AsyncIterator["_Connection"]:
    """Returns a client; it connects when it publishes or consumes, and works in a thread."""
    yield _Connection(int(address))


class _Connection:
    def __init__(self, port: int) -> None:
        self._port = port

    async def prepare(self, queue: str, subscriptions: Sequence[str]) -> None:
        pass

    async def publish_many(self, queue: str, payloads: Iterable[bytes]) -> None:
        await asyncio.to_thread(_publish, self._port, iter(payloads))

    async def publish(self, queue: str, payload: bytes) -> None:
        raise NotImplementedError

    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        return await asyncio.to_thread(_consume, self._port, handle, attached)


def _batch_count(size_bytes: int) -> int:
    """Returns how many payloads of this size the client of Tidings joins into one batch."""
    item_bytes = len(encode_item(bytes(size_bytes), None, None, None))
    fitting = max(1, limits.BATCH_SIZE_BYTES_MAX // item_bytes)
    step = limits.PUBLISH_CHUNK_COUNT
    return max(1, min(fitting // step * step or fitting, limits.BATCH_COUNT_MAX))


def _publish(port: int, payloads: Iterator[bytes]) -> None:
    connection = _connect(port)
    connection.sendall(b"p")
    payload = next(payloads)
    count = _batch_count(len(payload))
    item = encode_item(payload, None, None, None)
    confirmed = 0
    more = threading.Condition()

    def confirms() -> None:
        nonlocal confirmed
        buffer = bytearray()
        with contextlib.suppress(ConnectionError):  # the end, after the last confirm
            while True:
                reached = _COUNT.unpack(_receive_exactly(connection, buffer, _COUNT.size))[0]
                with more:
                    confirmed = reached
                    more.notify_all()

    threading.Thread(target=confirms, daemon=True).start()
    sent, joined = 0, 1 + len(list(islice(payloads, count - 1)))
    whole = item * count
    while joined:
        with more:
            more.wait_for(lambda sent=sent: sent - confirmed < _BATCHES_WAITING_MAX)
        body = whole if joined == count else item * joined
        connection.sendmsg([_SIZE.pack(len(body))])
        connection.sendall(body)
        sent += 1
        joined = len(list(islice(payloads, count)))
    connection.sendall(_SIZE.pack(0))
    with more:
        more.wait_for(lambda: confirmed == sent)


def _consume(port: int, handle: Handle | None, attached: Callable[[], None]) -> int:
    connection = _connect(port)
    connection.sendall(b"c")
    attached()
    counted, skip, size_bytes = 0, 0, 0
    header = b""
    while data := connection.recv(_RECEIVE_BYTES):
        offset, before = 0, counted
        while offset < len(data):
            if skip:
                step = min(skip, len(data) - offset)
                skip -= step
                offset += step
                counted += skip == 0
                continue
            missing = _SIZE.size - len(header)
            header += data[offset : offset + missing]
            offset += missing
            if len(header) == _SIZE.size:
                skip, header = _SIZE.unpack(header)[0], b""
                size_bytes += skip
                if not skip:
                    return size_bytes
        if handle:
            handle(b"")
        if counted > before:
            connection.sendall(_COUNT.pack(counted))
    raise ConnectionError("the server went away")


def _receive_exactly(connection: socket.socket, buffer: bytearray, size: int) -> bytes:
    while len(buffer) < size:
        data = connection.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the other side went away")
        buffer += data
    found = bytes(buffer[:size])
    del buffer[:size]
    return found


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class _Server:
    """Receives in one thread, writes in another, and takes acks in a third."""

    def __init__(self, path: Path, publisher: socket.socket, consumer: socket.socket) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._publisher = publisher
        self._consumer = consumer
        self._total: int | None = None  # known once the publisher has said that it was the last
        self._changed = threading.Condition()
        self._received: list[bytes] = []
        self._received_bytes = 0
        self._received_batches = 0
        self._acked = 0

    def run(self) -> None:
        for work in (self._receive, self._take_acks):
            threading.Thread(target=work, daemon=True).start()
        self._write()
        os.close(self._file)

    def _receive(self) -> None:
        rest = b""
        while data := self._publisher.recv(_RECEIVE_BYTES):
            rest = rest + data if rest else data
            offset = complete = 0
            last = False
            while len(rest) - offset >= _SIZE.size:
                size = _SIZE.unpack_from(rest, offset)[0]
                following = offset + _SIZE.size + size
                if following > len(rest):
                    break
                if not size:
                    last = True
                    break
                offset, complete = following, complete + 1
            if not complete and not last:
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._received_bytes < _GROUP_BYTES_MAX)
                if complete:
                    self._received.append(rest[:offset])
                self._received_bytes += offset
                self._received_batches += complete
                if last:
                    self._total = self._received_batches
                self._changed.notify_all()
            rest = rest[offset:]

    def _take_acks(self) -> None:
        buffer = bytearray()
        while self._total is None or self._acked < self._total:
            acked = _COUNT.unpack(_receive_exactly(self._consumer, buffer, _COUNT.size))[0]
            with self._changed:
                self._acked = acked
                self._changed.notify_all()

    def _write(self) -> None:
        written = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._received or self._acked == self._total)
                group, self._received, self._received_bytes = self._received, [], 0
                batches, acked = self._received_batches, self._acked
                self._changed.notify_all()
            # The acks ride on what is written anyway.
            for start in range(0, len(group), 512):
                os.writev(self._file, group[start : start + 512])
            os.write(self._file, _COUNT.pack(acked))
            _sync(self._file)
            if group:
                written = batches
                self._publisher.sendall(_COUNT.pack(written))
                for data in group:
                    self._consumer.sendall(data)
            if acked == self._total:
                self._consumer.sendall(_SIZE.pack(0))
                return


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ready {listener.getsockname()[1]}", flush=True)
    roles: dict[bytes, socket.socket] = {}
    for _ in range(2):
        connection = listener.accept()[0]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        roles[connection.recv(1)] = connection
    _Server(Path(sys.argv[1]), roles[b"p"], roles[b"c"]).run()
    sys.stdin.read()  # so that its memory and processor time can be asked for


PEERS = [
    Peer(
        name="floor",
        title="bare floor: append, fdatasync, loopback",
        durability="fdatasync before each confirm, shared by what arrived together",
        syncs=True,
        messages_per_second=500_000,
        missing=lambda: "",
        version=lambda: "benchmarks/peers/floor.py",
        serve=serve,
        connect=connect,
    )
]

if __name__ == "__main__":
    main()
