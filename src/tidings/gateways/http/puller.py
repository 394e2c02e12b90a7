"""The puller: one subscription, held for a client that comes and goes with each request."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from tidings import limits
from tidings.broker import effects
from tidings.errors import TimedOut
from tidings.node import Attachment, Delivery

Item: TypeAlias = Delivery | effects.Gap
Gone: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""Waits until the client of a request is gone."""


class Puller:
    """Hands out what was asked for.

    Args:
        attachment: attached to pull.
    """

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.filter: str | None = None
        """The filter of the subscription, once somebody wanted to know it."""
        self.uses = 0
        """Requests under way."""
        self.lease: asyncio.TimerHandle | None = None
        """Its end, while no request is under way."""
        self._unsettled = 0
        self._turn = asyncio.Lock()

    @property
    def lease_ms(self) -> int:
        """For how long after its last request it is kept."""
        most_ms = self.attachment.ack_timeout_ms if self._unsettled else 0
        return max(limits.PULL_LEASE_MS, most_ms)

    async def pull(self, count: int, wait_ms: int, gone: Gone) -> list[Item]:
        """Returns up to `count` messages and gaps: what is there, or else what comes first within `wait_ms`.

        For a client that is `gone` nothing is taken.

        Raises:
            TimedOut: the store is too slow to tell what is there.
            TidingsError: the hold has ended.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_ms / 1000
        try:
            async with asyncio.timeout((wait_ms + limits.REQUEST_TIMEOUT_MS) / 1000), self._turn:
                items = self._take(count)
                if not items:
                    items = await self._ask(count, deadline_s, gone)
        except TimeoutError:
            raise TimedOut("the store did not tell in time which messages are there; pull again") from None
        self._unsettled += len(items)
        return items

    async def _ask(self, count: int, deadline_s: float, gone: Gone) -> list[Item]:
        attachment, loop = self.attachment, asyncio.get_running_loop()
        left = asyncio.ensure_future(gone())
        items: list[Item] = []
        try:
            await attachment.ask(count)
            items = self._take(count)
            while not items and not left.done() and (wait_s := deadline_s - loop.time()) > 0:
                arrival = asyncio.ensure_future(attachment.arrival())
                try:
                    await asyncio.wait((arrival, left), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    arrival.cancel()
                if not left.done():
                    items = self._take(count)
            # What was on its way until now is in the answer, too, and does not wait for the next one.
            await attachment.ask(0)
            if not left.done():
                items += self._take(count - len(items))
        except BaseException:
            attachment.withdraw()
            raise
        finally:
            left.cancel()
        return items

    def _take(self, count: int) -> list[Item]:
        items: list[Item] = []
        while len(items) < count and (item := self.attachment.take()) is not None:
            items.append(item)
        error = self.attachment.error
        if error and not items and count:
            raise type(error)(*error.args)
        return items

    def settled(self, count: int) -> None:
        """Takes note that so many messages were settled."""
        self._unsettled = max(0, self._unsettled - count)
