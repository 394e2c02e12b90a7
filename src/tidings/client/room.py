"""Room in the publish buffer, pure: who has to wait for it gets it in the order of asking."""

from collections import deque
from collections.abc import Callable
from typing import Final

from tidings.client.waiters import Waiter, refuse
from tidings.errors import TidingsError

_GRANTS_MAX: Final = 256  # given and not used yet; each may add one message before the buffer is looked at again


class Room:
    """A queue of waiters in front of a buffer.

    Args:
        is_free: whether the buffer takes more.
    """

    def __init__(self, is_free: Callable[[], bool]) -> None:
        self._is_free = is_free
        self._waiters: deque[Waiter[None]] = deque()
        self._granted = 0

    @property
    def full(self) -> bool:
        """Whether one has to wait: the buffer is full, or others wait or were given room already."""
        return bool(self._waiters) or self._granted > 0 or not self._is_free()

    def wait(self, waiter: Waiter[None]) -> None:
        """Queues a waiter; answered in turn. It must call `taken` once it was answered."""
        self._waiters.append(waiter)
        self.grant()

    def taken(self) -> None:
        """Takes note that one who was given room used it, or gave up."""
        self._granted -= 1
        self.grant()

    def forget(self, waiter: Waiter[None]) -> None:
        """Takes note that a waiter gave up before it was answered."""
        try:
            self._waiters.remove(waiter)
        except ValueError:
            return  # answered or failed in the meantime

    def grant(self) -> None:
        """Answers those whose turn it is; to be called whenever the buffer may have become free."""
        while self._waiters and self._granted < _GRANTS_MAX and self._is_free():
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._granted += 1
                waiter.set_result(None)

    def refuse(self, error: TidingsError) -> None:
        """Ends all waiting with an error."""
        while self._waiters:
            refuse(self._waiters.popleft(), type(error)(f"{error.text}; the message was never sent"))
