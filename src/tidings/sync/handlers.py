"""Functions that are called with messages, in threads, and ack by returning."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor
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


def run_handlers(handlers: Sequence[Handler], loop: Loop) -> None:
    """Runs handlers in threads of their own until the client is closed."""
    if not handlers:
        raise InvalidOption("there are no handlers to run; register some with @client.on(queue, event)")
    held = [handler.subscription._held(handler.handling_max_s) for handler in handlers]
    count = sum(handler.concurrency for handler in handlers)
    extending: list[Future[None]] = []
    with ThreadPoolExecutor(count, thread_name_prefix="tidings handler") as pool:
        try:
            for handler in handlers:
                handler.subscription.attach()
            extending = [asyncio.run_coroutine_threadsafe(each.extend(), loop.loop) for each in held]
            working = [
                pool.submit(_work, handler.function, handler.subscription, each)
                for handler, each in zip(handlers, held, strict=True)
                for _ in range(handler.concurrency)
            ]
            done, _ = wait_for(working, return_when=FIRST_EXCEPTION)
        finally:
            for future in extending:
                future.cancel()
            for handler in handlers:
                handler.subscription.close()
        for worker in done:
            worker.result()


def _work(function: Callable[[Message], object], subscription: Subscription, held: Held) -> None:
    for message in subscription:
        failure: BaseException | None = message.error
        if failure is None:
            held.begin(message)
            try:
                result = function(message)
                if result is not None:
                    check_finished(result)
                    if message.is_request:
                        _respond(message, result)
            except Exception as error:  # whatever a handler raises concerns its message alone
                failure = error
            finally:
                held.end(message)
        if failure is not None:
            report_failure(message, failure, subscription._subscription, settled=message._given_back)
        if message._given_back:
            continue  # the handler has said itself what becomes of it
        if failure is None:
            message.ack()
        elif is_final(message, failure):
            message.reject(failure)
        else:
            message.nack(error=failure)


def _respond(message: Message, result: object) -> None:
    try:
        if not message.respond(result):
            report_unheard(message)
    except Unavailable as error:
        report_unheard(message, error)
