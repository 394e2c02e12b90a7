"""The floor under a durable queue: append, fdatasync and loopback of the same bytes, with nothing else done to them.

Three processes, as in end_to_end.py: a publisher sends batches that were encoded once, a server appends what has
come, syncs it, and only then answers the publisher and sends it on to a consumer, which counts and acks. Nothing is
decoded, checked, numbered or remembered. What comes during a sync makes the next group, as it does in the real
server: a thread receives, a thread writes.

    publisher to server    size u32, batch             server to publisher    batches on disk, u64, cumulative
    server to consumer     size u32, batch             consumer to server     batches acked, u64, cumulative
                                                       server to consumer     size 0: the last ack is on disk
"""

import os
import socket
import struct
import sys
import threading
from pathlib import Path

from tidings import limits
from tidings.batch import encode_item

_SIZE = struct.Struct("!I")
_COUNT = struct.Struct("!Q")
_RECEIVE_BYTES = 1024 * 1024
_GROUP_BYTES_MAX = limits.COMMIT_BYTES_MAX
_BATCHES_WAITING_MAX = limits.UNCONFIRMED_BATCHES_MAX
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def batch_count(size_bytes: int) -> int:
    """Returns how many payloads of this size the client joins into one batch."""
    item_bytes = len(encode_item(bytes(size_bytes), None, None, None))
    fitting = max(1, limits.BATCH_SIZE_BYTES_MAX // item_bytes)
    step = limits.PUBLISH_CHUNK_COUNT
    return max(1, min(fitting // step * step or fitting, limits.BATCH_COUNT_MAX))


def batches(messages: int, size_bytes: int) -> int:
    """Returns how many batches carry so many messages."""
    return -(-messages // batch_count(size_bytes))


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

    def __init__(self, path: Path, publisher: socket.socket, consumer: socket.socket, total: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._publisher = publisher
        self._consumer = consumer
        self._total = total
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
            while len(rest) - offset >= _SIZE.size:
                following = offset + _SIZE.size + _SIZE.unpack_from(rest, offset)[0]
                if following > len(rest):
                    break
                offset, complete = following, complete + 1
            if not complete:
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._received_bytes < _GROUP_BYTES_MAX)
                self._received.append(rest[:offset])
                self._received_bytes += offset
                self._received_batches += complete
                self._changed.notify_all()
            rest = rest[offset:]

    def _take_acks(self) -> None:
        buffer = bytearray()
        while self._acked < self._total:
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


def serve(path: Path, total: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ready {listener.getsockname()[1]}", flush=True)
    roles: dict[bytes, socket.socket] = {}
    for _ in range(2):
        connection = listener.accept()[0]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        roles[connection.recv(1)] = connection
    _Server(path, roles[b"p"], roles[b"c"], total).run()


def publish(port: int, total: int, messages: int, size_bytes: int) -> None:
    connection = _connect(port)
    connection.sendall(b"p")
    count = batch_count(size_bytes)
    item = encode_item(os.urandom(size_bytes), None, None, None)
    body = item * count
    confirmed = 0
    more = threading.Condition()

    def confirms() -> None:
        nonlocal confirmed
        buffer = bytearray()
        while confirmed < total:
            reached = _COUNT.unpack(_receive_exactly(connection, buffer, _COUNT.size))[0]
            with more:
                confirmed = reached
                more.notify_all()

    print("ready", flush=True)
    sys.stdin.readline()
    threading.Thread(target=confirms, daemon=True).start()
    for number in range(total):
        if number == total - 1:
            body = item * (messages - count * (total - 1))
        with more:
            more.wait_for(lambda number=number: number - confirmed < _BATCHES_WAITING_MAX)
        connection.sendmsg([_SIZE.pack(len(body))])
        connection.sendall(body)
    with more:
        more.wait_for(lambda: confirmed == total)
    print("confirmed", flush=True)


def consume(port: int) -> None:
    connection = _connect(port)
    connection.sendall(b"c")
    print("ready", flush=True)
    counted, skip = 0, 0
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
                if not skip:
                    print("acked", flush=True)
                    return
        if counted > before:
            connection.sendall(_COUNT.pack(counted))


def main() -> None:
    role, *arguments = sys.argv[1:]
    if role == "server":
        serve(Path(arguments[0]), int(arguments[1]))
    elif role == "publisher":
        publish(*map(int, arguments))
    else:
        consume(int(arguments[0]))


if __name__ == "__main__":
    main()
