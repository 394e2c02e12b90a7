"""The broker inside the user's process: the same server, in a thread of its own, reached over socket pairs.

One broker for each data file or memory name in a process, shared by all clients of that process. A thread with
its own event loop keeps it independent of the loops that come and go in the program; a socket pair brings the
whole protocol with its back-pressure.
"""

import asyncio
import atexit
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future

from tidings.errors import ConnectionLost, InvalidOption, TidingsError
from tidings.server import Server, make_store

_STOP_TIMEOUT_S = 30.0

_lock = threading.Lock()
_brokers: "dict[str, _Broker]" = {}


class EmbeddedDialer:
    """Dials a broker in this process, starting it if it does not run yet.

    Args:
        url: "memory:", "memory:NAME", "sqlite:PATH" or a path.

    A broker in memory lives as long as the process; one on a data file until its last client is closed.
    """

    def __init__(self, url: str) -> None:
        if not url or url == "sqlite:":
            raise InvalidOption(f"URL {url!r} names no data file; write 'sqlite:PATH', a path, or 'memory:'")
        self.address = url
        if "\0" in url:
            raise InvalidOption(f"URL {url!r} is not a path: it contains a null character")
        self._path = None if url.startswith("memory:") else os.path.realpath(url.removeprefix("sqlite:"))
        self._broker: _Broker | None = None
        self._acquiring: asyncio.Future[_Broker] | None = None

    async def dial(
        self, protocol_factory: Callable[[], asyncio.Protocol]
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Opens a connection.

        Raises:
            StoreUnusable: the data file cannot be opened as it is.
        """
        loop = asyncio.get_running_loop()
        if self._broker is None or not self._broker.alive:
            if self._acquiring is None:
                self._acquiring = loop.run_in_executor(None, _acquire, self.address, self._path)
            # One that is still starting when its time is over is waited for by the next attempt, or by `close`.
            acquiring = self._acquiring
            await asyncio.wait([acquiring])
            self._acquiring = None
            self._broker = acquiring.result()
        ours, theirs = socket.socketpair()
        try:
            await self._broker.accept(theirs)
            return await loop.create_connection(protocol_factory, sock=ours)
        except BaseException:
            ours.close()
            raise

    async def close(self) -> None:
        """Gives the broker back, also one that is still starting."""
        acquiring, self._acquiring = self._acquiring, None
        if acquiring is not None:
            await asyncio.wait([acquiring])
            if acquiring.exception() is None:
                self._broker = acquiring.result()
        broker, self._broker = self._broker, None
        if broker:
            await asyncio.get_running_loop().run_in_executor(None, _release, broker)


class _Broker:
    """A server in a thread."""

    def __init__(self, key: str, path: str | None) -> None:
        self.key = key
        self.path = path
        self.clients = 0
        self._loop = asyncio.new_event_loop()
        self._server: Server | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=f"tidings {key}", daemon=True)
        self._thread.start()
        self._ready.result()

    @property
    def alive(self) -> bool:
        """Whether it can be dialled: a server that failed leaves a thread that has ended."""
        return self._thread.is_alive()

    async def accept(self, end: socket.socket) -> None:
        """Takes the server's end of a socket pair; awaited in the client's loop.

        Raises:
            ConnectionLost: the broker has ended.
        """
        end.setblocking(False)
        if not self.alive:
            end.close()
            raise ConnectionLost(f"the broker of {self.key} in this process has ended; its log says why")
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._accept(end), self._loop))

    def stop(self) -> None:
        """Drains and ends the thread."""
        if self._thread.is_alive() and self._server:
            asyncio.run_coroutine_threadsafe(self._server.drain(), self._loop)
            self._thread.join(_STOP_TIMEOUT_S)

    async def _accept(self, end: socket.socket) -> None:
        assert self._server is not None, "a broker is ready before it is handed out"
        await self._loop.connect_accepted_socket(self._server.native.protocol_factory, end)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(_cause(error))
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._server = Server(make_store(self.path))
        await self._server.run(ready=lambda _: self._ready.set_result(None))


def _acquire(url: str, path: str | None) -> _Broker:
    key = path or url
    with _lock:
        broker = _brokers.get(key)
        if broker is None or not broker.alive:
            broker = _brokers[key] = _Broker(key, path)
        broker.clients += 1
        return broker


def _release(broker: _Broker) -> None:
    with _lock:
        broker.clients -= 1
        if broker.clients == 0 and broker.path is not None:
            if _brokers.get(broker.key) is broker:
                del _brokers[broker.key]
            broker.stop()


def stop(url: str) -> None:
    """Ends the broker in memory of this name, and with it what it held; nothing happens if there is none.

    For tests that give each other no leftovers; clients that are still connected lose their broker.
    """
    with _lock:
        broker = _brokers.pop(url, None)
        if broker:
            broker.stop()


def _stop_all() -> None:
    with _lock:
        for broker in _brokers.values():
            broker.stop()
        _brokers.clear()


atexit.register(_stop_all)


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, TidingsError | OSError) else RuntimeError(f"the broker did not start: {error!r}")
