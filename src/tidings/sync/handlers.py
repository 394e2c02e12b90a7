"""Functions that are called with messages, in threads, and ack by returning."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future
from concurrent.futures import wait as wait_for
from typing import NamedTuple

from tidings.client.handlers import Held, check_finished, is_final, report_failure, report_unheard
from tidings.errors import InvalidOption, Unavailable
from tidings.sync.loop import Loop
from tidings.sync.subscription import Message, Subscription


class Handler(NamedTuple):
    """A function, where its messages come from, how many threads call it, and how long each call may take."""

    function: Callable[[Message], object]
    subscription: Subscription
    concurrency: int
    handling_max_s: float


class _Worker:
    """A thread that calls a handler with one message after another.

    As the client's own thread, it does not keep a program from ending that has not closed its client.
    """

    def __init__(self, handler: Handler, held: Held, stopping: threading.Event) -> None:
        self.ended: Future[None] = Future()
        self._handler = handler
        self._held = held
        self._stopping = stopping
        self._handling = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tidings handler", daemon=True)

    def start(self) -> None:
        """Begins to handle messages, until the subscription ends."""
        self._thread.start()

    def finish(self) -> None:
        """Waits until it handles nothing; once it is stopping, nothing more follows."""
        with self._handling:
            pass

    def join(self) -> None:
        """Waits until the thread has ended, if it was started."""
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # it is raised by who runs the handlers
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)

    def _work(self) -> None:
        for message in self._handler.subscription:
            with self._handling:
                if self._stopping.is_set():
                    return  # as it was not handled, it is delivered again
                self._handle(message)

    def _handle(self, message: Message) -> None:
        failure: BaseException | None = message.error
        if failure is None:
            self._held.begin(message)
            try:
                result = self._handler.function(message)
                if result is not None:
                    check_finished(result)
                    if message.is_request:
                        _respond(message, result)
            except Exception as error:  # whatever a handler raises concerns its message alone
                failure = error
            finally:
                self._held.end(message)
        if failure is not None:
            subscription = self._handler.subscription._subscription
            report_failure(message, failure, subscription, settled=message._given_back)
        if message._given_back:
            return  # the handler has said itself what becomes of it
        if failure is None:
            message.ack()
        elif is_final(message, failure):
            message.reject(failure)
        else:
            message.nack(error=failure)


def run_handlers(handlers: Sequence[Handler], loop: Loop) -> None:
    """Runs handlers in threads of their own until the client is closed.

    When one fails, or this thread is interrupted, those at work end what they have begun, and that is acked.
    """
    if not handlers:
        raise InvalidOption("there are no handlers to run; register some with @client.on(queue, event)")
    held = [handler.subscription._held(handler.handling_max_s) for handler in handlers]
    stopping = threading.Event()
    workers = [
        _Worker(handler, each, stopping)
        for handler, each in zip(handlers, held, strict=True)
        for _ in range(handler.concurrency)
    ]
    extending: list[Future[None]] = []
    try:
        for handler in handlers:
            handler.subscription.attach()
        extending = [asyncio.run_coroutine_threadsafe(each.extend(), loop.loop) for each in held]
        for worker in workers:
            worker.start()
        done, _ = wait_for([worker.ended for worker in workers], return_when=FIRST_EXCEPTION)
    finally:
        stopping.set()
        try:
            for worker in workers:
                worker.finish()
        finally:
            for future in extending:
                future.cancel()
            for handler in handlers:
                handler.subscription.close()
            for worker in workers:
                worker.join()
    for ended in done:
        ended.result()


def _respond(message: Message, result: object) -> None:
    try:
        if not message.respond(result):
            report_unheard(message)
    except Unavailable as error:
        report_unheard(message, error)
