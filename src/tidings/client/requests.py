"""What every question to the server has in common: an answer, or a time limit."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from tidings import calls
from tidings.client.pending import Answer, Pending
from tidings.client.supervisor import Supervisor
from tidings.errors import InvalidOption, TimedOut
from tidings.model import ClientInfo, QueueInfo, SubscriptionInfo
from tidings.wire import Listing

_Info = TypeVar("_Info", ClientInfo, QueueInfo, SubscriptionInfo)


def time_limit(timeout: float | None) -> asyncio.Timeout:
    """Returns a context that ends with TimeoutError after so many seconds; None is without limit.

    Raises:
        InvalidOption: it is no number, or less than nothing.
    """
    return asyncio.timeout(check_timeout(timeout))


def check_timeout(timeout: float | None) -> float | None:
    """Returns a time limit in seconds as it is.

    Raises:
        InvalidOption: it is no number, or less than nothing.
    """
    if timeout is not None and (
        not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout >= 0  # which NaN is not
    ):
        raise InvalidOption(f"timeout={timeout!r}: write a number of seconds from 0, or None for no limit")
    return timeout


class Requests:
    """The part of a client that asks and waits; its verbs are in the classes that build on it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._session = supervisor.session

    async def _list(self, what: str, kind: type[_Info], timeout: float | None) -> list[_Info]:
        infos: list[_Info] = []
        after: str | None = ""
        while after is not None:
            page = await self._ask(partial(self._session.list, what, after), timeout, f"listing {what}")
            assert isinstance(page, Listing)
            infos += msgspec.msgpack.decode(page.entries, type=list[kind])  # type: ignore[valid-type]
            after = page.after or None
        return infos

    async def _ask(
        self, ask: Callable[["asyncio.Future[Answer]"], Pending | None], timeout: float | None, what: str
    ) -> Answer | None:
        waiter: asyncio.Future[Answer] = self._supervisor.loop.create_future()
        pending = ask(waiter)
        if pending is None:
            return None
        try:
            async with time_limit(timeout):
                return await waiter
        except TimeoutError:
            raise self._timed_out(what, timeout) from None
        finally:
            self._session.give_up(pending)

    async def _call(self, call: calls.Call, timeout: float | None, kind: Any = None) -> Any:
        body = await self._ask(lambda waiter: self._session.call(call, waiter), timeout, _name(call))
        assert isinstance(body, bytes)
        return msgspec.msgpack.decode(body, type=kind or calls.ANSWERS[type(call)])

    def _timed_out(self, what: str, timeout: float | None) -> TimedOut:
        return TimedOut(f"{what} was not answered within {timeout:g} s{self._supervisor.why_not_connected()}")


def _name(call: calls.Call) -> str:
    return str(call.__struct_config__.tag).replace("_", " ")
