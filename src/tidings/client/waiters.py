"""What the pure parts of the client answer to: anything shaped like a future."""

from typing import Final, Protocol, TypeVar

Result = TypeVar("Result", contravariant=True)


class Waiter(Protocol[Result]):
    """Takes one answer, once. `asyncio.Future` is one; one that is done takes no answer any more."""

    def done(self) -> bool:
        """Returns whether it has its answer, or does not want one any more."""
        ...

    def set_result(self, result: Result, /) -> None:
        """Gives the answer."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Gives an error for an answer."""
        ...


def answer(waiter: Waiter[Result] | None, result: Result) -> None:
    """Gives a result to a waiter that still wants one."""
    if waiter is not None and not waiter.done():
        waiter.set_result(result)


def refuse(waiter: Waiter[Result] | None, error: BaseException) -> None:
    """Gives an error to a waiter that still wants an answer."""
    if waiter is not None and not waiter.done():
        waiter.set_exception(error)


class _Unheard:
    """A waiter that nobody waits for."""

    def done(self) -> bool:
        return True

    def set_result(self, result: object, /) -> None:
        raise AssertionError("answered although done")

    def set_exception(self, exception: BaseException, /) -> None:
        raise AssertionError("answered although done")


UNHEARD: Final = _Unheard()
"""For questions whose answer does not matter to anybody."""
