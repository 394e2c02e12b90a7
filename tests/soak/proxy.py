"""The proxy: a network between clients and a server that splits, merges, delays, holds back and cuts what passes."""

import asyncio
import random
from collections import Counter
from types import TracebackType

_READ_BYTES = 65_536
_SINGLE_BYTES_MAX = 300  # of one chunk that go byte by byte
_DELAY_S = (0.001, 0.05)
_HOLD_S = (0.1, 0.6)  # time that one direction of a connection stands still while all others pass it
_KINDS = ("as it is", "split", "single bytes", "merge", "delay", "hold", "cut", "half cut", "reset")
_WEIGHTS = (300, 60, 20, 40, 40, 6, 2, 1, 2)


class Proxy:
    """Listens on a port of its own and passes on to `port`; `calm` ends the faults.

    Arguments:
        port: the server's.
        chance: decides what happens to each chunk.
    """

    def __init__(self, port: int, chance: random.Random) -> None:
        self.faults: Counter[str] = Counter()
        self.calm = False
        self._port = port
        self._chance = chance
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tidings://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
            ways = (self._pass(reader, there_writer), self._pass(there_reader, writer))
            passing = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in passing:
                    way.cancel()
                await asyncio.wait(passing)
                there_writer.close()
        except (OSError, asyncio.CancelledError):
            pass  # the server is not there, or the test is over: the client sees a connection that ends
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes one direction on, in order; returns when the connection is to end."""
        try:
            while data := await reader.read(_READ_BYTES):
                [kind] = ("as it is",) if self.calm else self._chance.choices(_KINDS, _WEIGHTS)
                self.faults[kind] += 1
                if not await self._pass_as(kind, data, reader, writer):
                    return
        except OSError:
            return  # one end has gone, the other one is told by the end of its connection

    async def _pass_as(
        self, kind: str, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        chance = self._chance
        match kind:
            case "cut":
                return False
            case "half cut":
                await _write(writer, data[: chance.randrange(len(data))])
                return False
            case "reset":
                writer.transport.abort()
                return False
            case "single bytes":
                for index in range(min(len(data), _SINGLE_BYTES_MAX)):
                    await _write(writer, data[index : index + 1])
                data = data[_SINGLE_BYTES_MAX:]
            case "split":
                place = chance.randrange(len(data))
                await _write(writer, data[:place])
                data = data[place:]
            case "merge":
                try:
                    async with asyncio.timeout(_DELAY_S[1]):
                        data += await reader.read(_READ_BYTES)
                except TimeoutError:
                    pass  # nothing came to merge it with
            case "delay" | "hold":
                await asyncio.sleep(chance.uniform(*(_DELAY_S if kind == "delay" else _HOLD_S)))
        await _write(writer, data)
        return True


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(0)  # the other connections, and a segment of its own for what comes next
