"""One subscription attached through a conversation: what was delivered and not taken yet, message by message."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tidings import limits
from tidings.batch import StoredBatch
from tidings.broker import effects, inputs
from tidings.errors import TidingsError
from tidings.model import Failure
from tidings.node.decoded import Delivery

if TYPE_CHECKING:
    from tidings.node.conversation import Conversation

Ranges: TypeAlias = list[tuple[int, int, int]]
"""(epoch, first sequence, last sequence), inclusive."""


class _Arrived(NamedTuple):
    """Rows of one Deliver, not decoded yet."""

    deliver: effects.Deliver
    row: StoredBatch


class Attachment:
    """Hands over deliveries and gaps in the order in which they came.

    What is not taken counts against the conversation's buffer: a door that takes nothing is delivered nothing more.

    Args:
        conversation: over which it is attached.
        handle: its number there.
        wake: called, at most once a round, when there is something to take or it has ended.
    """

    __slots__ = (
        "_arrived",
        "_conversation",
        "_gaps",
        "_ready",
        "_waiters",
        "_wake",
        "ack_timeout_ms",
        "attempts_max",
        "created",
        "durable",
        "error",
        "handle",
        "is_over",
        "name",
        "places",
    )

    def __init__(self, conversation: "Conversation", handle: int, wake: Callable[[], None] | None) -> None:
        self.handle = handle
        self.name = ""
        self.durable = False
        self.created = False
        """Whether attaching made the subscription."""
        self.places: list[tuple[int, int]] = []
        """(epoch, sequence before the first message) where it goes on, if its client is to remember that."""
        self.ack_timeout_ms = 0
        self.attempts_max = 0
        self.error: TidingsError | None = None
        """Why nothing more comes; None while it is attached."""
        self.is_over = False
        """Whether it was a replay, and all of it was settled."""
        self._conversation = conversation
        self._wake = wake
        self._arrived: deque[_Arrived | effects.Gap] | None = None  # None instead of an empty deque, 760 bytes
        self._ready: deque[Delivery] | None = None
        self._gaps: dict[tuple[int, int], int] | None = None  # (reading, last sequence) -> first sequence
        self._waiters: list[asyncio.Future[None]] = []

    # --- taking ---

    def take(self) -> Delivery | effects.Gap | None:
        """Returns what comes next; None if nothing is here now."""
        while not self._ready:
            if not self._arrived:
                self._arrived = self._ready = None
                return None
            arrived = self._arrived.popleft()
            if isinstance(arrived, effects.Gap):
                self._remember(arrived)
                return arrived
            self._ready = deque(self._conversation.decoded.deliveries(*arrived))
            self._conversation.taken(len(arrived.row.batch.body))
        return self._ready.popleft()

    async def next(self) -> Delivery | effects.Gap:
        """Waits for what comes next.

        Raises:
            TidingsError: it has ended, and all that came before was taken.
        """
        while (item := self.take()) is None:
            if self.error:
                raise type(self.error)(*self.error.args)
            await self.arrival()
        return item

    def arrival(self) -> asyncio.Future[None]:
        """Returns what is done as soon as more has come than was there when it was called, or it has ended."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        waiter.add_done_callback(self._forget_waiter)
        return waiter

    async def __aiter__(self) -> AsyncIterator[Delivery | effects.Gap]:
        while True:
            yield await self.next()

    async def ask(self, count: int) -> None:
        """Asks for up to `count` messages, if it was attached to pull; those that are there now came on return."""
        await self._conversation.ask(
            lambda connection, request: inputs.Ask(connection, self.handle, count, request), answered=None
        )

    def withdraw(self) -> None:
        """Asks for no more, without waiting for the answer."""
        self._conversation.submit(inputs.Ask(self._conversation.connection, self.handle, 0, 0))

    # --- settling ---

    def ack_soon(self, ranges: Ranges) -> None:
        """Settles ranges without waiting until that is durable; a refusal goes nowhere."""
        self._conversation.submit(inputs.Ack(self._conversation.connection, self.handle, self._whole(ranges)))

    async def ack(self, ranges: Ranges, *, earlier: bool = False) -> None:
        """Settles ranges; they are settled durably on return. The last sequence of a gap stands for all of it.

        With `earlier` they may have been delivered before the server was started again.

        Raises:
            NeverDelivered, DeliveryTakenAway, InvalidOption: why it was refused; the other ranges count.
        """
        await self._conversation.ask(
            lambda connection, request: inputs.Ack(connection, self.handle, self._whole(ranges), request, earlier),
            answered=None,
        )

    async def nack(
        self, ranges: Ranges, *, delay_ms: int | None = None, reject: bool = False, failure: Failure | None = None
    ) -> None:
        """Gives messages back as failed: again after `delay_ms` or the backoff, or dead letters with `reject`."""
        await self._conversation.ask(
            lambda connection, request: inputs.Nack(
                connection, self.handle, ranges, request, delay_ms, reject, failure
            ),
            answered=None,
        )

    async def extend(self, ranges: Ranges) -> None:
        """Gives messages that are still being handled their whole ack timeout again."""
        await self._conversation.ask(
            lambda connection, request: inputs.Extend(connection, self.handle, ranges, request), answered=None
        )

    async def detach(self) -> None:
        """Ends it; a durable subscription stays, and what is in flight goes back to it without counting."""
        await self._conversation.detach(self)

    def leave(self) -> None:
        """As `detach`, without waiting until it is done."""
        self._conversation.leave(self)

    def _remember(self, gap: effects.Gap) -> None:
        self._gaps = self._gaps or {}
        self._gaps[gap.epoch, gap.last_sequence] = gap.first_sequence
        if len(self._gaps) > limits.GAPS_MAX:
            del self._gaps[next(iter(self._gaps))]

    def _whole(self, ranges: Ranges) -> Ranges:
        """Returns ranges with the whole of gaps that were named by their last sequences."""
        gaps = self._gaps
        if not gaps:
            return ranges
        return [(reading, min(first, gaps.get((reading, last), first)), last) for reading, first, last in ranges]

    # --- for the conversation ---

    def arrived(self, effect: effects.Deliver | effects.Gap) -> int:
        """Takes a delivery; returns its size in bytes."""
        if self._arrived is None:
            self._arrived = deque()
        if isinstance(effect, effects.Gap):
            self._arrived.append(effect)
            return 0
        self._arrived.extend(_Arrived(effect, row) for row in effect.rows)
        return sum([len(row.batch.body) for row in effect.rows])

    def attached(self, effect: effects.Subscribed) -> None:
        """Takes note of what the broker says of the subscription."""
        self.name, self.durable, self.created = effect.name, effect.durable, effect.created
        self.places, self.ack_timeout_ms = effect.places, effect.ack_timeout_ms
        self.attempts_max = effect.attempts_max

    def end(self, error: TidingsError) -> None:
        """Takes note that nothing more comes; what came stays to be taken."""
        self.error = self.error or error
        self.wake()

    def forget(self) -> int:
        """Forgets what was not taken; returns its size in bytes."""
        arrived, self._arrived, self._ready = self._arrived or (), None, None
        return sum(len(each.row.batch.body) for each in arrived if isinstance(each, _Arrived))

    def _forget_waiter(self, waiter: asyncio.Future[None]) -> None:
        if waiter in self._waiters:  # it was cancelled
            self._waiters.remove(waiter)

    def wake(self) -> None:
        """Tells whoever waits."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._wake:
            self._wake()
