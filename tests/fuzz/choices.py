"""Choices: decisions of a test read from bytes, so that whatever mutates bytes explores decisions."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Reads decisions from bytes; when they are used up, every decision is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._offset

    def number(self, size: int) -> int:
        """Returns an unsigned integer of so many bytes."""
        return int.from_bytes(self.take(size), "big")

    def below(self, end: int) -> int:
        """Returns a number from 0 up to `end` exclusive, which is at most 256."""
        return self.number(1) % end

    def pick(self, options: Sequence[T]) -> T:
        """Returns one of the options."""
        return options[self.below(len(options))]

    def take(self, size: int) -> bytes:
        """Returns the next bytes, fewer if fewer are left."""
        piece = self._data[self._offset : self._offset + size]
        self._offset += len(piece)
        return piece

    def rest(self) -> bytes:
        """Returns all that is left."""
        return self.take(self.left)
