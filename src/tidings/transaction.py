"""What a broker asks of a store in one transaction, and what a store tells about its rows."""

from collections.abc import Sequence
from typing import NamedTuple

from tidings.batch import StoredBatch


class Append(NamedTuple):
    """A batch to append to the queue of this epoch; it continues where the queue ends."""

    queue: int
    stored: StoredBatch


class Trim(NamedTuple):
    """Rows of the queue of this epoch to remove: all whose last sequence is at most `to_sequence`."""

    queue: int
    to_sequence: int


class Commit(NamedTuple):
    """One transaction: everything in it becomes durable together, or nothing does."""

    appends: Sequence[Append] = ()
    trims: Sequence[Trim] = ()
    puts: Sequence[tuple[str, bytes]] = ()
    deletes: Sequence[str] = ()


class Bounds(NamedTuple):
    """What a queue holds: first and last sequence, and the bytes of bodies between them."""

    first_sequence: int
    last_sequence: int
    size_bytes: int
    last_time_ms: int


class Row(NamedTuple):
    """A stored batch without its body.

    `offset_bytes` is the sum of the sizes of all bodies ever appended to the queue before this one.
    """

    first_sequence: int
    last_sequence: int
    time_ms: int
    offset_bytes: int
    size_bytes: int


class Damage(NamedTuple):
    """Sequences that cannot be read any more, and why."""

    first_sequence: int
    last_sequence: int
    reason: str
