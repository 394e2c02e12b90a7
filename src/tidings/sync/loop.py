"""The event loop in a thread on which an asynchronous client lives."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from tidings.errors import ConnectionLost, InvalidOption, TidingsError

_FINISH_TIMEOUT_S = 1.0
_Result = TypeVar("_Result")


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.closed = False
        self._closing = threading.RLock()  # a handler of signals may close in the middle of what it interrupts
        self._thread = threading.Thread(target=self.loop.run_forever, name="tidings client", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether the thread is one of this process; where that was forked, the thread stayed behind."""
        return self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Runs a coroutine there and waits for it; an interrupt of this thread cancels it.

        Raises:
            InvalidOption: this is that thread.
            ConnectionLost: the thread has ended, or is one of another process.
        """
        try:
            future = self._begin(coroutine)
        except TidingsError:
            coroutine.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise ConnectionLost("the client is closed") from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Ends loop and thread, once what other threads wait for has ended.

        Raises:
            InvalidOption: this is that thread; nothing has ended.
        """
        self._check_thread()
        with self._closing:
            closed, self.closed = self.closed, True
            if closed or not self.is_here:
                return
            finishing = asyncio.run_coroutine_threadsafe(self._finish(), self.loop)
        finishing.result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def check_process(self) -> None:
        """Raises ConnectionLost if the client was opened in another process."""
        if not self.is_here:
            raise ConnectionLost("the client was opened before this process was forked; connect anew in this one")

    def _check_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise InvalidOption("a verb of tidings.sync would wait for itself here; call it from another thread")

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionLost("the client is closed")

    def _begin(self, coroutine: Coroutine[Any, Any, _Result]) -> "Future[_Result]":
        self._check_thread()
        with self._closing:
            self._check_open()
            self.check_process()
            try:
                future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
            except RuntimeError:
                self._check_open()  # a handler of signals has closed it since
                raise
            if not future.done():
                self._check_open()  # so it has, and nothing will run there any more
            return future

    async def _finish(self) -> None:
        # All waiters of a closed client have their answers: its tasks end within a few turns of the loop.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_FINISH_TIMEOUT_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_FINISH_TIMEOUT_S)
        await self.loop.shutdown_asyncgens()
