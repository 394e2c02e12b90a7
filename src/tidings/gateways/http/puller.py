"""The puller: one subscription, held for a client that comes and goes with each request."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from tidings import limits
from tidings.broker import effects
from tidings.errors import TimedOut
from tidings.model import Reading, epoch_of
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
        self.lasts = False
        """Whether it is kept after them."""
        self.lease: asyncio.TimerHandle | None = None
        """Its end, while no request is under way."""
        self._unsettled = 0
        self._gaps: dict[tuple[Reading, int], tuple[effects.Gap, float]] = {}
        # (reading, last sequence) -> a gap that was told and is not acked, and when it is told again
        self._busy = False  # whether a request has its turn
        self._waits = False  # whether that one was told that nothing is there, and waits
        self._changed = asyncio.Event()  # set when either changes, and another one then

    @property
    def lease_ms(self) -> int:
        """For how long after its last request it is kept."""
        most_ms = self.attachment.ack_timeout_ms if self._unsettled else 0
        return max(limits.PULL_LEASE_MS, most_ms)

    async def pull(self, count: int, wait_ms: int, gone: Gone) -> list[Item]:
        """Returns up to `count` messages and gaps: what is there, or else what comes first within `wait_ms`.

        One request asks at a time, and those that came first go first. Nothing is taken for a client that is `gone`.
        The answer may be lost: what is not acked comes again after the ack timeout, messages and gaps.

        Raises:
            TimedOut: the store is too slow to tell what is there.
            TidingsError: the hold has ended.
        """
        deadline_s = asyncio.get_running_loop().time() + wait_ms / 1000
        left = asyncio.ensure_future(gone())
        try:
            async with asyncio.timeout((wait_ms + limits.REQUEST_TIMEOUT_MS) / 1000):
                if not await self._begin(deadline_s):
                    return []
                try:
                    ask_until_s = 0 if self._due_gaps() else deadline_s
                    items = self._take(count, left) or await self._ask(count, ask_until_s, left)
                    if not left.done():
                        items += self._due_gaps()[: count - len(items)]  # they keep no message waiting
                    self._remember(items)
                finally:
                    self._note(busy=False, waits=False)
        except TimeoutError:
            raise TimedOut("the store did not tell in time which messages are there; pull again") from None
        finally:
            left.cancel()
        self._unsettled += len(items)
        return items

    async def _begin(self, deadline_s: float) -> bool:
        """Waits for this request's turn; returns False if another one waits for a message beyond the deadline."""
        loop = asyncio.get_running_loop()
        while self._busy:
            is_late = loop.time() >= deadline_s
            if is_late and self._waits:
                return False
            try:
                # Who is late waits only until it is known whether something is there.
                async with asyncio.timeout_at(None if is_late else deadline_s):
                    await self._changed.wait()
            except TimeoutError:
                pass  # looked at above
        self._note(busy=True, waits=False)
        return True

    def _note(self, *, busy: bool, waits: bool) -> None:
        self._busy, self._waits = busy, waits
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _ask(self, count: int, deadline_s: float, left: "asyncio.Future[None]") -> list[Item]:
        attachment = self.attachment
        items: list[Item] = []
        try:
            await attachment.ask(count)
            items = self._take(count, left)
            while not items and await self._arrival(deadline_s, left):
                items = self._take(count, left)
            # What was on its way until now is in the answer, too, and does not wait for the next one.
            await attachment.ask(0)
            items += self._take(count - len(items), left)
        except BaseException:
            attachment.withdraw()
            raise
        return items

    async def _arrival(self, deadline_s: float, left: "asyncio.Future[None]") -> bool:
        """Waits until something comes; returns False if it is too late for that, or the client is gone."""
        wait_s = deadline_s - asyncio.get_running_loop().time()
        if wait_s <= 0 or left.done():
            return False
        self._note(busy=True, waits=True)
        arrival = self.attachment.arrival()  # what comes from now on is not missed
        try:
            await asyncio.wait((arrival, left), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            return arrival.done()
        finally:
            arrival.cancel()

    def _take(self, count: int, left: "asyncio.Future[None]") -> list[Item]:
        items: list[Item] = []
        if left.done():
            return items
        while len(items) < count and (item := self.attachment.take()) is not None:
            items.append(item)
        error = self.attachment.error
        if error and not items and count:
            raise type(error)(*error.args)
        return items

    def settled(self, ranges: Sequence[tuple[Reading, int, int]], *, acked: bool) -> None:
        """Takes note that its client acked, or gave back, what these (reading, first, last) name, each one item."""
        self._unsettled = max(0, self._unsettled - len(ranges))
        for reading, _, last in ranges if acked else ():
            self._gaps.pop((reading, last), None)

    def _due_gaps(self) -> list[effects.Gap]:
        now_s = asyncio.get_running_loop().time()
        return [gap for gap, due_s in self._gaps.values() if due_s <= now_s]

    def _remember(self, items: list[Item]) -> None:
        due_s = asyncio.get_running_loop().time() + self.attachment.ack_timeout_ms / 1000
        for gap in items:
            if isinstance(gap, effects.Gap):
                self._forget_moved(gap)
                self._gaps[gap.epoch, gap.last_sequence] = gap, due_s
        while len(self._gaps) > limits.GAPS_MAX:
            del self._gaps[next(iter(self._gaps))]

    def _forget_moved(self, anew: effects.Gap) -> None:
        """Forgets what a gap tells anew, since its subscription was moved: an ack of that counts no more."""
        for reading, last in list(self._gaps):
            is_moved = reading != anew.epoch and epoch_of(reading) == epoch_of(anew.epoch)
            if is_moved and last >= anew.first_sequence:
                del self._gaps[reading, last]
