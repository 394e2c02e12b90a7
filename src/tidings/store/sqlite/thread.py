"""A thread that carries out calls for an event loop, one after another."""

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple, TypeVar

_T = TypeVar("_T")


class _Call(NamedTuple):
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Any]"
    function: Callable[..., Any]
    arguments: tuple[object, ...]


class StoreThread:
    """A thread of its own for blocking calls.

    What an executor does more (a pool, futures of two kinds chained to each other) costs a commit of one message
    a fifth of what the event loop spends on it.

    Args:
        name: the thread's name.
    """

    def __init__(self, name: str) -> None:
        self._calls: Final[SimpleQueue[_Call | None]] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[..., _T], *arguments: object) -> "asyncio.Future[_T]":
        """Calls a function in the thread, after all that was asked before; the future gets what comes of it.

        A call that was begun or waits is made whether or not its future is cancelled.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()
        self._calls.put(_Call(loop, answer, function, arguments))
        return answer

    def finish(self) -> None:
        """Ends the thread once all that was asked is done; blocks until then. Nothing may be asked after it."""
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            loop, answer, function, arguments = call
            result: object = None
            error: BaseException | None = None
            try:
                result = function(*arguments)
            except BaseException as raised:  # whatever it is, it belongs to whoever asked
                error = raised
            try:
                loop.call_soon_threadsafe(_tell, answer, result, error)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more
            del call, answer, result, error  # else they would live until the next call


def _tell(answer: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if answer.done():
        return  # cancelled
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
