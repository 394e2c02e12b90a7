"""What the application asks of a subscription, checked before anything is sent."""

from datetime import datetime, timedelta
from typing import Literal

from tidings import limits
from tidings.client.subscriber import Options
from tidings.errors import InvalidOption
from tidings.model import check_label

Start = Literal["latest", "earliest"] | int | datetime
Seconds = float | timedelta


def subscription_options(
    queue: str,
    event: str | None,
    *,
    name: str | None,
    start: Start,
    in_flight_max: int | None,
    concurrency: int,
    ack_timeout: Seconds | None,
    expires_after: Seconds | None,
) -> Options:
    """Returns checked options. Filters are the server's business: it refuses those that it cannot match.

    Raises:
        InvalidOption: an option is out of its range.
        InvalidName: the name breaks the rules for names.
    """
    if not isinstance(queue, str) or not isinstance(event, str | None):
        raise InvalidOption("queue and event of a subscription are strings: names or patterns")
    if event is None:
        queue, _, event = queue.partition("/")
        event = event or "#"
    if name is not None:
        check_label(name, "subscription")
    word, value = _start(start)
    timeout_ms = milliseconds(ack_timeout, "ack_timeout")
    if timeout_ms is not None and not limits.ACK_TIMEOUT_MS_MIN <= timeout_ms <= limits.ACK_TIMEOUT_MS_MAX:
        raise InvalidOption(
            f"ack_timeout of {timeout_ms} ms is outside {limits.ACK_TIMEOUT_MS_MIN} to {limits.ACK_TIMEOUT_MS_MAX} ms"
        )
    return Options(
        queue=queue,
        event=event,
        name=name,
        start=word,
        start_value=value,
        in_flight_max=_within(in_flight_max, limits.IN_FLIGHT_MAX, "in_flight_max") or 0,
        concurrency=_within(concurrency, limits.CONCURRENCY_MAX, "concurrency") or 1,
        ack_timeout_ms=timeout_ms or 0,
        expires_after_ms=milliseconds(expires_after, "expires_after"),
    )


def _start(start: Start) -> tuple[str, int]:
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise InvalidOption(f"start {start} has no time zone; write datetime.now(timezone.utc) and the like")
        return "time", int(start.timestamp() * 1000)
    if isinstance(start, int) and not isinstance(start, bool) and start >= 1:
        return "sequence", start
    if isinstance(start, str) and start in ("latest", "earliest"):
        return start, 0
    raise InvalidOption(f"start {start!r} is not 'latest', 'earliest', a sequence from 1 or a datetime")


def _within(value: int | None, maximum: int, what: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise InvalidOption(f"{what} of {value!r} is outside 1 to {maximum}")
    return value


def milliseconds(value: Seconds | None, what: str) -> int | None:
    """Returns seconds or a timedelta in milliseconds.

    Raises:
        InvalidOption: it is neither, or less than nothing.
    """
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < 1e12:
        raise InvalidOption(f"{what} of {value!r} is not a number of seconds or a timedelta")
    return round(seconds * 1000)
