"""What arrived of a subscription, pure: parts of deliveries, and their runs while they are handed over one by one."""

from itertools import count
from operator import length_hint
from typing import Any, NamedTuple

import msgspec

from tidings.batch import decode_items
from tidings.errors import ProtocolViolation
from tidings.model import Run
from tidings.wire import Part


class Delivery(NamedTuple):
    """One part of a delivery, with its piece of the body."""

    queue: str
    epoch: int
    part: Part
    body: bytes | memoryview
    redelivered: bool
    attempts: dict[int, int]
    redriven: bool = False
    attachment: int = 0
    """How often its subscriber had been attached when it came."""

    @property
    def last_sequence(self) -> int:
        """The last sequence that is here. What was cut out behind it may still come: the window was full."""
        last = sequence = self.part.first_sequence - 1
        for run in self.part.runs:
            sequence += run.count
            if run.event is not None:
                last = sequence
        return last

    def ranges(self) -> list[tuple[int, int]]:
        """Returns the sequences that are here. What was cut out may be in flight otherwise: never ack it along."""
        ranges: list[tuple[int, int]] = []
        sequence = self.part.first_sequence
        for run in self.part.runs:
            following = sequence + run.count
            if run.event is not None:
                if ranges and ranges[-1][1] == sequence - 1:
                    ranges[-1] = (ranges[-1][0], following - 1)
                else:
                    ranges.append((sequence, following - 1))
            sequence = following
        return ranges

    def decode(self) -> list[tuple[Run, int, list[Any]]]:
        """Returns each run that is here, its first sequence and its messages as plain tuples.

        Raises:
            ProtocolViolation: the body is not what the runs say.
        """
        decoded: list[tuple[Run, int, list[Any]]] = []
        sequence, offset = self.part.first_sequence, 0
        for run in self.part.runs:
            if run.event is not None:
                piece = self.body[offset : offset + run.size]
                try:
                    decoded.append((run, sequence, decode_items(run.count, run.flags, piece)))
                except msgspec.MsgspecError as error:
                    place = f"{sequence} to {sequence + run.count - 1} of queue {self.queue!r}"
                    raise ProtocolViolation(f"messages {place} are malformed: {error}") from None
                offset += run.size
            sequence += run.count
        return decoded


class ReadyRun:
    """The messages of one run while they are handed over one by one.

    Several iterations may pull from it, each an item and its sequence at a time.

    Args:
        first: the first message's sequence.
        items: the messages; not used by anybody else.
        context: what belongs to all of them.
    """

    __slots__ = ("_all", "_end", "context", "items", "sequences")

    def __init__(self, first: int, items: list[Any], context: Any) -> None:
        self.items = iter(items)
        self.sequences = count(first)
        self.context = context
        self._all = items
        self._end = first + len(items)

    @property
    def remaining(self) -> int:
        """How many were not handed over yet."""
        return length_hint(self.items)

    @property
    def next_sequence(self) -> int:
        """The sequence of the first that was not handed over."""
        return self._end - self.remaining

    @property
    def end(self) -> int:
        """The sequence of the last."""
        return self._end - 1

    def forget(self) -> None:
        """Ends all iterations over it: nothing remains."""
        self._all.clear()
