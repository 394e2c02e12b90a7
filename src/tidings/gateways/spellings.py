"""What deliveries look like at a door, spelled once for all clients that are delivered the same."""

from collections.abc import Callable
from typing import Generic, TypeVar

from tidings import limits
from tidings.node import Delivery

T = TypeVar("T")
_OVERHEAD_BYTES = 512  # of what is kept beside two payloads


class Spellings(Generic[T]):
    """The latest spellings, up to SPELLINGS_BYTES_MAX. Made once for each gateway.

    Args:
        spell: what is to be known of a delivery in a form.
    """

    def __init__(self, spell: Callable[[Delivery, str], T]) -> None:
        self._spell = spell
        # With the delivery itself: it lives as long as its identity is a key.
        self._kept: dict[tuple[int, str], tuple[Delivery, T]] = {}
        self._size_bytes = 0

    def of(self, delivery: Delivery, form: str = "") -> T:
        """Returns how a delivery is spelled in a form; a delivery that is the same object is spelled once."""
        key = (id(delivery), form)
        kept = self._kept.get(key)
        if kept is not None:
            return kept[1]
        spelled = self._spell(delivery, form)
        self._kept[key] = (delivery, spelled)
        self._size_bytes += _size_bytes(delivery)
        while self._size_bytes > limits.SPELLINGS_BYTES_MAX:
            former, _ = self._kept.pop(next(iter(self._kept)))
            self._size_bytes -= _size_bytes(former)
        return spelled


def _size_bytes(delivery: Delivery) -> int:
    return 2 * len(delivery.payload) + _OVERHEAD_BYTES
