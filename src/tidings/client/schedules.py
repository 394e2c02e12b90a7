"""The verbs for messages that are published later."""

from collections.abc import AsyncIterator
from datetime import datetime

from tidings import calls
from tidings.client import payloads as encoding
from tidings.client.options import Seconds, milliseconds, ttl_of
from tidings.client.requests import Requests
from tidings.errors import InvalidOption
from tidings.model import ScheduledInfo


class Schedules(Requests):
    """The verbs of a client for scheduled messages."""

    async def schedule(
        self,
        queue: str,
        event: str,
        payload: object,
        *,
        at: datetime | None = None,
        delay: Seconds | None = None,
        every: Seconds | None = None,
        headers: dict[str, str] | None = None,
        id: str | None = None,
        key: str | None = None,
        content_type: str | None = None,
        ttl: Seconds | None = None,
        timeout: float | None = 30.0,
    ) -> ScheduledInfo:
        """Has a message published later, once or again and again; on disk on return. `publish` does it, too.

        Args:
            queue: the queue's name.
            event: the event's name.
            payload: as `publish`.
            headers: as `publish`.
            id: as `publish`; it counts when the time comes.
            key: as `publish`.
            content_type: as `publish`.
            at: when; naive times are local. One that is past means at once.
            delay: seconds or a timedelta from now on, instead of `at`. Without either it is published at once.
            every: seconds or a timedelta, at least 1 s, after which it is published again, in this rhythm. Times that
                pass while the server is down are made up for once.
            ttl: as `publish`; it counts from when it is published.
            timeout: time limit in seconds.

        Returns:
            ScheduledInfo: its `handle` cancels it.

        Raises:
            InvalidInput: a name, option or payload cannot be.
            SystemQueue, DiskFull, StoreUnavailable: the server does not take it.
            ConnectionLost: the connection was lost before the answer; it may be scheduled. Not asked again, since it
                would be published twice; with an `id` that does no harm.
            TimedOut: the time limit passed; it may be scheduled.
        """
        encoding.check_address(queue, event)
        encoding.check_content_type(content_type)
        data, content_type = encoding.encode_payload(payload, content_type)
        encoding.encode_message(data, id, key, headers)  # for its checks
        call = calls.Schedule(
            queue=queue,
            event=event,
            payload=data,
            content_type=content_type,
            id=id,
            key=key,
            headers=headers,
            at_ms=_at_ms(at),
            delay_ms=milliseconds(delay, "delay"),
            every_ms=milliseconds(every, "every"),
            ttl_ms=ttl_of(ttl),
        )
        info: ScheduledInfo = await self._call(call, timeout)
        return info

    async def cancel_schedule(self, handle: str, *, timeout: float | None = 30.0) -> None:
        """Takes a scheduled message back, or ends a recurring one; durable on return.

        Raises:
            InvalidOption: the handle is malformed.
            NotFound: it was published or cancelled before; if the connection was lost meanwhile, perhaps by this call.
            TimedOut: the time limit passed; it may be cancelled.
        """
        await self._call(calls.CancelSchedule(handle=handle), timeout)

    async def schedules(self, *, timeout: float | None = 30.0) -> AsyncIterator[ScheduledInfo]:
        """Iterates over what is scheduled, the next ones first.

        Raises:
            TimedOut: a page was not answered within the time limit.
        """
        after = ""
        while True:
            page: list[ScheduledInfo] = await self._call(calls.ListSchedules(after=after), timeout)
            for info in page:
                yield info
            if not page:
                return
            after = page[-1].handle


def _at_ms(at: datetime | None) -> int | None:
    if not isinstance(at, datetime | None):
        raise InvalidOption(f"at={at!r} is not a datetime; for a time from now on there is delay=")
    try:
        return None if at is None else round(at.timestamp() * 1000)
    except (ValueError, OverflowError) as error:  # at the ends of what a datetime can be
        raise InvalidOption(f"at={at} cannot be told in seconds since 1970: {error}") from None
