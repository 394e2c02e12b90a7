"""Power cuts: every state in which a power cut may leave the data file is opened, and has what was confirmed.

`kill -9` cannot show a missing fsync, since what a killed process wrote is in the system's memory. So a server runs
under strace, is killed in the middle and started again; from the trace come the files that a power cut at any moment
may leave (disk.py), and the confirms that had left the server by then. At each confirm the fsyncs are counted, too.
"""

import asyncio
import random
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.integration.processes import Server, eventually, run_command, stored_messages
from tests.integration.raw_connection import RawConnection, publish_frame
from tests.soak import trace
from tests.soak.altered_server import altered
from tests.soak.disk import WAYS, Disk
from tidings import limits
from tidings.batch import StoredBatch, decode_items
from tidings.broker import queue_epochs
from tidings.errors import StoreUnusable
from tidings.store.sqlite import SqliteStore, check
from tidings.wire import Confirmed
from tidings.wire.codec import Reader
from tidings.wire.frames import SERVER_KINDS

_QUEUES = ("small-1", "small-2", "large")
_WINDOW = 8  # batches under way: the rows of small ones stay within a page, which is never written in parts
_MARK = re.compile(rb"message-[a-z0-9-]+;")
_ALL_BYTES = 1 << 30

Messages = dict[tuple[int, int], list[bytes]]
"""The payloads of each confirmed batch, by queue epoch and first sequence."""


@dataclass
class Report:
    """What a run looked at."""

    confirms: int = 0
    fsyncs: int = 0
    steps: int = 0
    images: int = 0
    servers: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.images:,} images of {self.steps:,} moments opened, {self.servers} by a server,"
            f" {self.confirms:,} confirms after {self.fsyncs:,} fsyncs, in {self.seconds:.0f} s"
        )


async def run(
    directory: Path,
    *,
    batches: int,
    share: float,
    servers: int,
    seed: int,
    alterations: Sequence[str] = (),
    lives: int = 2,
    count_fsyncs: bool = True,
) -> Report:
    """Runs a server under strace and looks at its power cuts; raises AssertionError with what was lost.

    Arguments:
        directory: for the server's files, the traces and the image that is looked at.
        batches: published into each of three queues by each life of the server; all but the last are killed.
        share: of the moments at which something changed, how many are looked at.
        servers: how many of their images are given to `tidings check` and a server, the others to the store.
        seed: decides the moments, and what is left of unsynced writes.
        alterations: bugs to be found.
        lives: of the server.
        count_fsyncs: whether a confirm without an fsync is an error by itself, whatever the images say.
    """
    began_s = time.monotonic()
    chance = random.Random(seed)
    data = directory / "data"
    data.mkdir()
    traces, published = [], Published()
    server = Server(data, program=altered("small_log", *alterations))
    for life in range(lives):
        traces.append(directory / f"trace-{life}")
        server.prefix = trace.command(traces[-1])
        server.start()
        try:
            await _load(server, life, batches, published, killed=life + 1 < lives)
            await eventually(lambda: trace.is_complete(traces[-1]), what="strace has written down the end")
        finally:
            server.end()
    report = await _Cuts(directory, data, published, share, servers, chance, count_fsyncs=count_fsyncs).run(traces)
    report.seconds = time.monotonic() - began_s
    return report


class Published:
    """The payloads of all batches, by life of the server, queue and number in their connection."""

    def __init__(self) -> None:
        self.batches: dict[tuple[int, str, int], list[bytes]] = {}
        self.epochs: dict[int, str] = {}
        self.confirms_count = 0


async def _load(server: Server, life: int, batches: int, published: Published, *, killed: bool) -> None:
    """Publishes; ends with a kill in the middle or, the last time, with all confirmed and a drain."""
    before = published.confirms_count
    async with asyncio.TaskGroup() as tasks:
        publishing = [tasks.create_task(_publish(server, life, queue, batches, published)) for queue in _QUEUES]
        if killed:
            goal = before + batches * len(_QUEUES) * 2 // 3
            await eventually(lambda: published.confirms_count >= goal, what="two thirds are confirmed")
            server.kill()
        await asyncio.wait(publishing)
    if not killed:
        assert published.confirms_count - before == batches * len(_QUEUES), "not everything was confirmed"
        assert server.terminate() == 0, server.log.read_text()


async def _publish(server: Server, life: int, queue: str, batches: int, published: Published) -> None:
    async with RawConnection(server.port) as connection:
        await connection.greet()
        sent = confirmed = 0
        while confirmed < batches:
            while sent < batches and sent - confirmed < _WINDOW:
                sent += 1
                payloads = _payloads(life, queue, sent)
                published.batches[life, queue, sent] = payloads
                frame, body = publish_frame(sent, queue, *payloads)
                connection.send(msgspec.structs.replace(frame, answered=confirmed + 1), body)
            answer = await connection.next()
            if answer is None:
                return  # it was killed
            assert isinstance(answer, Confirmed), answer
            published.epochs[answer.epoch] = queue
            confirmed += 1
            published.confirms_count += 1


def _payloads(life: int, queue: str, number: int) -> list[bytes]:
    count = 1 + number % 3
    size_bytes = 20_000 if queue == "large" else 20 + number % 100
    return [
        b"message-%s-%d-%d-%d;" % (queue.encode(), life, number, index) + b"." * size_bytes for index in range(count)
    ]


class _Cuts:
    """Goes through the traces once, and looks at chosen moments."""

    def __init__(
        self,
        directory: Path,
        data: Path,
        published: Published,
        share: float,
        servers: int,
        chance: random.Random,
        *,
        count_fsyncs: bool,
    ) -> None:
        self._image = directory / "image"
        self._published = published
        self._share = share
        self._servers = servers
        self._chance = chance
        self._count_fsyncs = count_fsyncs
        self._disk = Disk(str(data.resolve()), "events.db")
        self._confirmed: Messages = {}
        self._certain: set[bytes] = set()  # marks of messages in what an fsync covered
        self._report = Report()

    async def run(self, traces: Sequence[Path]) -> Report:
        for life, path in enumerate(traces):
            await self._follow(life, path)
            self._disk.process_ended()
        assert self._report.confirms, "no confirm was seen"
        assert self._report.fsyncs, "no fsync was seen"
        return self._report

    async def _follow(self, life: int, path: Path) -> None:
        readers: dict[str, Reader] = {}
        sending: dict[int, trace.Call] = {}
        for step in trace.read(path):
            changed = self._disk.follow(step)
            if isinstance(step, trace.Begin) and step.call.target.startswith("socket:"):
                sending[step.number] = step.call
            elif isinstance(step, trace.End) and step.number in sending:
                # From the other side's view it came at the call's end; it may have left at any time in the call.
                call = sending.pop(step.number)
                reader = readers.setdefault(call.target, Reader(SERVER_KINDS, limits.DELIVERY_BODY_SIZE_BYTES_MAX))
                changed = self._sent(life, reader, call.data[: max(0, step.result)]) or changed
            if changed:
                self._report.steps += 1
                if self._chance.random() < self._share:
                    for way in WAYS:
                        await self._look_at(way)

    def _sent(self, life: int, reader: Reader, data: bytes) -> bool:
        confirms = [received.frame for received in reader.receive_data(data) if isinstance(received.frame, Confirmed)]
        if confirms:
            self._certain.update(_MARK.findall(self._disk.take_synced()))
            self._report.fsyncs = self._disk.fsyncs_count
        for confirm in confirms:
            queue = self._published.epochs[confirm.epoch]
            payloads = self._published.batches[life, queue, confirm.number]
            self._confirmed[confirm.epoch, confirm.first_sequence] = payloads
            self._report.confirms += 1
            if self._count_fsyncs and queue != "large":  # a large one's mark may lie across two pages
                missing = [mark for payload in payloads for mark in _MARK.findall(payload) if mark not in self._certain]
                assert not missing, f"confirmed before an fsync covered it: {missing}"
        return bool(confirms)

    async def _look_at(self, way: str) -> None:
        shutil.rmtree(self._image, ignore_errors=True)
        self._image.mkdir()
        for name, content in self._disk.image(way, self._chance).items():
            (self._image / name).write_bytes(content)
        path = self._image / "events.db"
        where = f"a power cut after step {self._report.steps} that leaves of unsynced writes {way}; see {self._image}"
        self._report.images += 1
        if not path.exists():
            assert not self._confirmed, f"the data file is gone after {where}"
            return
        if self._servers and self._confirmed and way == WAYS[-1] and self._chance.random() < 0.5:
            self._servers -= 1
            await self._serve(where)
        else:
            try:
                self._compare(await _stored(path), where)
            except StoreUnusable as error:
                raise AssertionError(f"{error} after {where}") from error
        problems: list[str] = []
        check(path, problems.append)
        assert not problems, f"{problems} after {where}"

    async def _serve(self, where: str) -> None:
        code, output, errors = await run_command("check", "events.db", directory=self._image)
        assert code == 0, f"tidings check: {output} {errors} after {where}"
        stored: dict[tuple[int, int], bytes] = {}
        with Server(self._image) as server:
            for epoch, queue in self._published.epochs.items():
                if any(epoch == confirmed for confirmed, _ in self._confirmed):
                    messages = await stored_messages(server, queue)
                    stored |= {(epoch, sequence): payload for sequence, payload in messages.items()}  # type: ignore[misc]
            assert server.terminate() == 0, server.log.read_text()
        self._compare(stored, where)
        self._report.servers += 1

    def _compare(self, stored: dict[tuple[int, int], bytes], where: str) -> None:
        lost = [
            (epoch, first + index)
            for (epoch, first), payloads in self._confirmed.items()
            for index, payload in enumerate(payloads)
            if stored.get((epoch, first + index)) != payload
        ]
        assert not lost, f"confirmed and lost: {lost[:5]} ({len(lost)} in all) after {where}"


async def _stored(path: Path) -> dict[tuple[int, int], bytes]:
    store = SqliteStore(path)
    stored: dict[tuple[int, int], bytes] = {}
    await store.open()
    try:
        for epoch in queue_epochs(dict(await store.list("queue/"))):
            after = 0
            while rows := await store.read(epoch, after, _ALL_BYTES):
                for row in rows:
                    assert isinstance(row, StoredBatch), f"damaged: {row}"
                    stored |= _messages(epoch, row)
                    after = row.last_sequence
    finally:
        await store.close()
    return stored


def _messages(epoch: int, row: StoredBatch) -> dict[tuple[int, int], bytes]:
    found, sequence, offset = {}, row.first_sequence, 0
    for run in row.batch.runs:
        for item in decode_items(run.count, run.flags, row.batch.body[offset : offset + run.size]):
            found[epoch, sequence] = item[0]
            sequence += 1
        offset += run.size
    return found
