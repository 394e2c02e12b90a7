"""Handlers: functions that are called with the messages of a subscription, and ack by returning.

A handler that raises nacks its message with the exception; one that raises `Reject`, or whose payload is not what was
asked for, gives it up. While a handler holds a message, its time is extended from outside the handler.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from tidings.client.failures import text_of
from tidings.client.message import Delivered, Message, extend
from tidings.client.subscription import Subscription
from tidings.errors import DeliveryTakenAway, InvalidOption, Unavailable

_logger: Final = logging.getLogger("tidings")
_EXTENSIONS_PER_TIMEOUT: Final = 3  # so that one of them may come late, and one may be lost

HandlerFunction: TypeAlias = Callable[[Message], Awaitable[object]] | Callable[[Message], object]


class Reject(Exception):
    """Raised by a handler to give a message up: it becomes a dead letter at once, with this exception's text.

    For what no other attempt will change. Anything else that a handler raises leads to another attempt.
    """

    __module__ = "tidings"


class Handler(NamedTuple):
    """A function, where its messages come from, how many calls may run at once, and how long each may take."""

    function: HandlerFunction
    subscription: Subscription
    concurrency: int
    handling_max_s: float


def checked(function: Callable[..., object], *, asynchronous: bool) -> None:
    """Refuses what cannot handle a message. A generator does nothing when it is called, and would be acked for that.

    Raises:
        InvalidOption: it is not a function, or one of a kind that cannot be run here.
    """
    if not callable(function):
        raise InvalidOption(f"{function!r} is no handler; write a function that is called with a message")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidOption(f"handler {function!r} is a generator, of which nothing would run; return instead of yield")
    if not asynchronous and inspect.iscoroutinefunction(function):
        raise InvalidOption(f"handler {function!r} is asynchronous; write `def`, or use a client of tidings.connect")


def check_finished(result: object) -> None:
    """Refuses a result whose work is still to be done; `checked` cannot see that of all that can be called.

    Raises:
        InvalidOption: it is one.
    """
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()
        raise InvalidOption(
            f"the handler returned {result!r}, whose work is not done; it is to await it, or iterate, itself"
        )


class Held:
    """What the handlers of a subscription hold at this moment; their time is extended meanwhile.

    Args:
        subscription: where the messages come from.
        handling_max_s: for how long one message is extended; then its ack timeout is left to run out.
        now: the clock of the loop that `extend` runs in.
    """

    def __init__(self, subscription: Subscription, handling_max_s: float, now: Callable[[], float]) -> None:
        self._subscription = subscription
        self._handling_max_s = handling_max_s
        self._now = now
        self._since: dict[Delivered, float] = {}

    def begin(self, message: Delivered) -> None:
        """Takes note that a handler is called. May be called in any thread, as `end`."""
        self._since[message] = self._now()

    def end(self, message: Delivered) -> None:
        """Takes note that a handler has ended."""
        self._since.pop(message, None)

    async def extend(self) -> None:
        """Extends what is held, again and again, until it is cancelled."""
        told: set[Delivered] = set()
        while True:
            await asyncio.sleep(self._subscription._ack_timeout_s / _EXTENSIONS_PER_TIMEOUT)
            now = self._now()
            told &= self._since.keys()
            extending: list[Delivered] = []
            for message, since in list(self._since.items()):
                if now - since < self._handling_max_s:
                    extending.append(message)
                elif message not in told:
                    told.add(message)
                    _logger.warning(
                        "%s has been handled for %g s (handling_max); its time is not extended any more, and when it"
                        " is over the attempt counts as failed",
                        _name(message),
                        self._handling_max_s,
                    )
            # One by one, so that one that was taken away hides no other.
            await asyncio.gather(*[self._extend(message, told) for message in extending])

    async def _extend(self, message: Delivered, told: set[Delivered]) -> None:
        subscription = self._subscription
        try:
            timeout = subscription._ack_timeout_s / _EXTENSIONS_PER_TIMEOUT
            await subscription._give_back(extend(message), message._context.delivery, True, timeout)
        except DeliveryTakenAway as error:
            if message not in told and message in self._since:
                told.add(message)
                _logger.warning("%s is still being handled, but %s", _name(message), error.text)
        except Unavailable:
            pass  # the connection is lost or slow; it is delivered again, or the next extension comes in time


async def run_handlers(handlers: Sequence[Handler]) -> None:
    """Runs all handlers until their subscriptions end; the first error of a subscription ends all."""
    if not handlers:
        raise InvalidOption("there are no handlers to run; register some with @client.on(queue, event)")
    try:
        async with asyncio.TaskGroup() as group:
            for handler in handlers:
                group.create_task(_run_handler(handler), name=f"tidings handler of {handler.subscription.name}")
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


async def _run_handler(handler: Handler) -> None:
    held = Held(handler.subscription, handler.handling_max_s, asyncio.get_running_loop().time)
    async with handler.subscription, asyncio.TaskGroup() as group:
        extending = group.create_task(held.extend())
        async with asyncio.TaskGroup() as workers:
            for _ in range(handler.concurrency):
                workers.create_task(_work(handler, held))
        extending.cancel()


async def _work(handler: Handler, held: Held) -> None:
    async for message in handler.subscription:
        failure: BaseException | None = message.error
        if failure is None:
            held.begin(message)
            try:
                result = handler.function(message)
                if inspect.isawaitable(result):
                    result = await result
                if result is not None:
                    check_finished(result)
                    if message.is_request:
                        await _respond(message, result)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                failure = error  # something that the handler waited for was cancelled, not the handler
            except Exception as error:  # whatever a handler raises concerns its message alone
                failure = error
            finally:
                held.end(message)
        if failure is not None:
            report_failure(message, failure, handler.subscription, settled=message._given_back)
        if message._given_back:
            continue  # the handler has said itself what becomes of it
        if failure is None:
            await message.ack()
        elif is_final(message, failure):
            await message.reject(failure)
        else:
            await message.nack(error=failure)


async def _respond(message: Message, result: object) -> None:
    """Sends what a handler returned; where that is too late, or the server is away, its work is done all the same."""
    try:
        if not await message.respond(result):
            report_unheard(message)
    except Unavailable as error:
        report_unheard(message, error)


def report_unheard(message: Delivered, error: Unavailable | None = None) -> None:
    """Logs that the reply of a handler reached nobody."""
    why = "nobody waits for it any more" if error is None else error.text
    _logger.warning("%s was handled, but its reply was not sent: %s", _name(message), why)


def is_final(message: Delivered, failure: BaseException) -> bool:
    """Whether no other attempt can end otherwise: the handler says so, or the payload is not what was asked for."""
    return isinstance(failure, Reject) or message.error is not None


def report_failure(message: Delivered, failure: BaseException, subscription: Subscription, *, settled: bool) -> None:
    """Logs why a message failed and what follows, as far as that is known here.

    Args:
        message: the message.
        failure: what its handler raised, or why none was called with it.
        subscription: where it came from.
        settled: whether the handler had nacked or rejected it itself.
    """
    attempts_max = subscription._attempts_max
    end = "becomes a dead letter" if subscription.durable else "is given up"
    final = is_final(message, failure)
    if settled:
        following = "the handler itself had said what becomes of it"
    elif final or message.attempt >= attempts_max > 0:
        following = f"it {end}"
    else:
        following = f"it is {subscription._fate(message._context.delivery)}"
    _logger.error(
        "%s %s, attempt %d%s: %s; %s",
        _name(message),
        "was rejected" if final else "failed in its handler",
        message.attempt,
        f" of at most {attempts_max}" if attempts_max else "",
        text_of(failure) or type(failure).__name__,
        following,
        exc_info=None if final else failure,
    )


def _name(message: Delivered) -> str:
    return f"message {message.sequence} of queue {message.queue!r} (event {message.event!r})"


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
