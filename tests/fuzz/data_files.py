"""Damaged data files: whatever happened to one, a server starts on it or says that it is unusable.

The files have queues, subscriptions with unsettled messages, a deleted queue and trimmed rows. One was closed, one
was left by a crash, with its log. A damaged one must be opened or refused with a `StoreUnusable`; an opened one
must be readable to its end, past what is damaged; and `tidings check` must come to its end.
"""

import asyncio
import logging
import re
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from tests.fuzz.choices import Choices
from tidings.connect import connect
from tidings.errors import StoreUnusable, TidingsError
from tidings.server import Server
from tidings.store.port import Commit, Store
from tidings.store.sqlite import SqliteStore, check
from tidings.transaction import Trim

_DEADLINE_S: Final = 20.0
_DAMAGES_MAX: Final = 8
_SEQUENCES_MAX: Final = 1_000
"""Far above what the files hold: a damaged row can claim to end anywhere."""
_PAGE_BYTES: Final = 16_384
_WRITTEN: Final = re.compile(rb"[^\0xy]")
Files = dict[str, bytes]
"""The data file and its log, by what their names end with."""


def data_file(data: bytes) -> None:
    """A server starts on a damaged file or refuses it, and the check of it comes to its end."""
    choices = Choices(data)
    files = {ending: bytearray(content) for ending, content in choices.pick(templates()).items()}
    for _ in range(1 + choices.below(_DAMAGES_MAX)):
        _damage(files[choices.pick(sorted(files))], choices)
    # The server warns of each damaged row, which is nothing new here.
    logging.getLogger("tidings").setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "events.db"
            for ending, content in files.items():
                path.with_name(path.name + ending).write_bytes(content)
            with suppress(StoreUnusable):
                check(path, lambda problem: None)
            asyncio.run(_serve(path))
    finally:
        logging.getLogger("tidings").setLevel(logging.NOTSET)


def _damage(content: bytearray, choices: Choices) -> None:
    if not content:
        return
    kind = choices.below(8)
    place = choices.number(4) % len(content)
    page = place - place % _PAGE_BYTES
    match kind:
        case 0:
            del content[place:]
        case 1:
            content[page : page + _PAGE_BYTES] = bytes(len(content[page : page + _PAGE_BYTES]))
        case 2:
            other = choices.number(4) % len(content) // _PAGE_BYTES * _PAGE_BYTES
            content[page : page + _PAGE_BYTES] = content[other : other + _PAGE_BYTES]
        case 3:
            # The header of a page, and where its cells begin, are a few bytes that everything depends on.
            content[page + choices.below(64) % len(content[page:])] = choices.number(1)
        case 4:
            piece = choices.take(8)
            content[place : place + len(piece)] = piece
        case _:
            # Much of a small file is zeros that nobody reads.
            found = _WRITTEN.search(content, place)
            content[found.start() if found else place] ^= 1 << choices.below(8)


async def _serve(path: Path) -> None:
    server = Server(SqliteStore(path))
    running = asyncio.create_task(server.run())
    ready = asyncio.create_task(server.node.ready.wait())
    async with asyncio.timeout(_DEADLINE_S):
        await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not running.done():
            ends = {epoch: queue.committed for epoch, queue in server.node._broker.state.epochs.items()}
            for epoch, last in ends.items():
                with suppress(StoreUnusable):
                    await _read_to(last, server.node.store, epoch)
            draining = asyncio.create_task(server.drain())
            await asyncio.wait((running, draining), return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
        try:
            await running
        except* StoreUnusable as errors:
            assert all(error.text for error in _leaves(errors))


async def _read_to(last: int, store: Store, epoch: int) -> None:
    after = 0
    # Where a queue ends is for the broker to know: of a row that cannot be read the store knows it only at a guess.
    while after < min(last, _SEQUENCES_MAX) and (rows := await store.read(epoch, after, 1 << 16)):
        assert rows[-1].last_sequence > after, f"queue {epoch} comes again and again after {after}"
        after = rows[-1].last_sequence


def _leaves(error: BaseException) -> list[TidingsError]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    assert isinstance(error, TidingsError)
    return [error]


@cache
def templates() -> tuple[Files, ...]:
    """Returns sound files: one that was closed, one that a crash left with its log."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "events.db"
        killed = asyncio.run(_fill(path))
        return {"": path.read_bytes()}, killed


async def _fill(path: Path) -> Files:
    url = f"sqlite:{path}"
    async with connect(url, client_id="reader") as reader, connect(url, client_id="writer") as writer:
        for queue in ("orders", "files.a", "files.b", "gone"):
            await writer.publish_many(queue, "created", [b"x" * 20_000, *(b"y" * size for size in range(50))])
        async with reader.subscribe("orders", start="earliest") as orders:
            async for message in orders:
                await message.ack(wait=message.sequence % 10 == 0)
                if message.sequence == 40:
                    break
        async with reader.subscribe("files.*", "made.#", start="earliest"):
            await writer.delete_queue("gone")
            for number in range(20):
                await writer.publish("files.a", f"made.{number}", {"number": number}, key="k", headers={"h": "v"})
    store = SqliteStore(path)
    await store.open()
    await store.commit(Commit(trims=[Trim(2, 51)]))
    await store.close()
    async with connect(url, client_id="reader") as reader, reader.subscribe("files.*", "made.#"):
        await reader.publish("orders", "created", {"last": True})
        return {ending: path.with_name(path.name + ending).read_bytes() for ending in ("", "-wal")}
