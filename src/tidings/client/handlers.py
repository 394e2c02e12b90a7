"""Handlers: functions that are called with the messages of a subscription, and ack by returning."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from tidings.client.message import Delivered, Message
from tidings.client.subscription import Subscription
from tidings.errors import InvalidOption, InvalidPayload

_logger: Final = logging.getLogger("tidings")

HandlerFunction: TypeAlias = Callable[[Message], Awaitable[object]] | Callable[[Message], object]


class Handler(NamedTuple):
    """A function, where its messages come from, and how many calls may run at once."""

    function: HandlerFunction
    subscription: Subscription
    concurrency: int


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
    async with handler.subscription, asyncio.TaskGroup() as group:
        for _ in range(handler.concurrency):
            group.create_task(_work(handler))


async def _work(handler: Handler) -> None:
    async for message in handler.subscription:
        if message.error is not None:
            report_invalid(message.error)
            continue
        try:
            result = handler.function(message)
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            report_failure(message)  # something that the handler waited for was cancelled, not the handler
        except Exception:  # whatever a handler raises concerns its message alone
            report_failure(message)
        else:
            await message.ack()


def report_invalid(error: InvalidPayload) -> None:
    """Logs a message that no handler is called with."""
    _logger.error("%s; the message is delivered again after the ack timeout", error.text)


def report_failure(message: Delivered) -> None:
    """Logs the exception that a handler has just raised."""
    _logger.exception(
        "the handler of message %d of queue %r (event %r, attempt %d) failed; it is delivered again after the ack"
        " timeout",
        message.sequence,
        message.queue,
        message.event,
        message.attempt,
    )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
