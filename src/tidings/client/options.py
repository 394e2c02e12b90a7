"""What the application asks of a subscription, checked before anything is sent."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from math import inf
from typing import Literal, TypeAlias, TypedDict

from msgspec import UNSET, UnsetType

from tidings import limits
from tidings.client.subscriber import Options
from tidings.errors import InvalidOption
from tidings.model import HeaderFilter, check_label

Start = Literal["latest", "earliest"] | int | datetime
Begin = Start | Literal["last"]
From = Literal["earliest"] | int | datetime
To = Literal["latest"] | int | datetime
Seconds = float | timedelta


class Prefix:
    """How the value of a header is to begin: see `headers` of `Client.subscribe`."""

    __module__ = "tidings"

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Prefix({self.text!r})"


HeaderValue: TypeAlias = str | Prefix | Literal[True] | Iterable[str | Prefix]
Headers: TypeAlias = Mapping[str, HeaderValue]


class SubscribeOptions(TypedDict, total=False):
    """What may be asked of a subscription; `Client.subscribe` says what each means."""

    name: str | None
    start: Begin
    in_flight_max: int | None
    concurrency: int
    ack_timeout: Seconds | None
    expires_after: Seconds | None
    attempts_max: int | None
    backoff_min: Seconds | None
    backoff_max: Seconds | None
    shared: str | None
    single_active: bool | None
    headers: Headers | None


def subscription_options(queue: str, event: str | None, given: SubscribeOptions) -> Options:
    """Returns checked options. Filters are the server's business: it refuses those that it cannot match.

    Raises:
        TypeError: there is no such option.
        InvalidOption: an option is out of its range.
        InvalidName: the name breaks the rules for names.
    """
    unknown = given.keys() - SubscribeOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(SubscribeOptions.__annotations__)
        raise TypeError(f"a subscription has no option {min(unknown)!r}; there are {known}")
    if not isinstance(queue, str) or not isinstance(event, str | None):
        raise InvalidOption("queue and event of a subscription are strings: names or patterns")
    if event is None:
        queue, _, event = queue.partition("/")
        event = event or "#"
    name, shared = given.get("name"), given.get("shared")
    if name is not None and shared is not None:
        raise InvalidOption(f"name={name!r} and shared={shared!r}: the second names the subscription already")
    if shared is None and given.get("single_active") is not None:
        raise InvalidOption("single_active is for shared subscriptions; give the name to share as shared=, too")
    name = name if shared is None else shared
    if name is not None:
        check_label(name, "subscription name")
    retries = policy(
        ack_timeout=given.get("ack_timeout"),
        attempts_max=given.get("attempts_max"),
        backoff_min=given.get("backoff_min"),
        backoff_max=given.get("backoff_max"),
    )
    word, value = start_of(given.get("start", "latest"), "start", ("last", "latest", "earliest"))
    single_active = given.get("single_active")
    if not isinstance(single_active, bool | None):
        raise InvalidOption(f"single_active={single_active!r}: write True or False, or leave it out")
    return Options(
        queue=queue,
        event=event,
        name=name,
        start=word,
        start_value=value,
        in_flight_max=within(given.get("in_flight_max"), limits.IN_FLIGHT_MAX, "in_flight_max") or 0,
        concurrency=within(given.get("concurrency"), limits.CONCURRENCY_MAX, "concurrency") or 1,
        expires_after_ms=milliseconds(given.get("expires_after"), "expires_after"),
        ack_timeout_ms=retries.get("ack_timeout_ms", 0),
        attempts_max=retries.get("attempts_max", 0),
        backoff_min_ms=retries.get("backoff_min_ms", 0),
        backoff_max_ms=retries.get("backoff_max_ms", 0),
        shared=shared is not None,
        single_active=single_active,
        headers=header_filters(given.get("headers")),
    )


def replay_options(
    queue: str, event: str | None, *, from_: From, to: To, rate: float | None, headers: Headers | None
) -> Options:
    """Returns checked options of a replay.

    Raises:
        InvalidOption: one is out of its range, or they say that there is nothing to replay.
    """
    start_of(from_, "from_", ("earliest",))
    end, end_value = start_of(to, "to", ("latest",))
    if type(from_) is type(to) and not isinstance(from_, str) and from_ > to:  # type: ignore[operator]
        raise InvalidOption(f"a replay from {from_} to {to} has nothing in it; begin at the earlier one")
    options = subscription_options(queue, event, {"start": from_, "headers": headers})
    return options._replace(end=end, end_value=end_value, rate=rate_of(rate))


def rate_of(rate: float | None) -> float:
    """Returns messages a second as the server is told; None, as fast as it goes, is 0 there.

    Raises:
        InvalidOption: it is no such number.
    """
    if rate is None:
        return 0.0
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not limits.RATE_MIN <= rate <= limits.RATE_MAX:
        raise InvalidOption(
            f"rate of {rate!r} messages/s; it can be {limits.RATE_MIN} to {limits.RATE_MAX}; leave it out for as fast"
            " as it goes"
        )
    return rate


def header_filters(headers: Headers | None) -> tuple[HeaderFilter, ...]:
    """Returns what is wanted of headers as the server is told. How much of it may be said is the server's business.

    Raises:
        InvalidOption: a name or what is wanted of it is neither.
    """
    if not isinstance(headers, Mapping | None):
        raise InvalidOption(f"headers={headers!r}: write a dict, for example headers={{'region': 'eu'}}")
    return tuple(_header_filter(name, wanted) for name, wanted in (headers or {}).items())


def _header_filter(name: str, wanted: HeaderValue) -> HeaderFilter:
    if wanted is True:
        wanted = Prefix("")
    alternatives = [wanted] if isinstance(wanted, str | Prefix) else wanted
    values: list[str] = []
    prefixes: list[str] = []
    for each in alternatives if isinstance(alternatives, Iterable) else (alternatives,):
        kind, text = (prefixes, each.text) if isinstance(each, Prefix) else (values, each)
        if not isinstance(name, str) or not isinstance(text, str):
            raise InvalidOption(
                f"header {name!r}: {each!r} is not what a value can be; write a string, tidings.Prefix('...'), a list"
                " of those, or True for any value"
            )
        kind.append(text)
    return HeaderFilter(name, tuple(values), tuple(prefixes))


def policy(
    *, ack_timeout: Seconds | None, attempts_max: int | None, backoff_min: Seconds | None, backoff_max: Seconds | None
) -> dict[str, int]:
    """Returns the checked settings of retries that were given, as `wire.Subscribe` and `calls` name them.

    Raises:
        InvalidOption: one is out of its range.
    """
    given = {
        "ack_timeout_ms": _between(ack_timeout, limits.ACK_TIMEOUT_MS_MIN, limits.ACK_TIMEOUT_MS_MAX, "ack_timeout"),
        "attempts_max": within(attempts_max, limits.ATTEMPTS_MAX_MAX, "attempts_max"),
        "backoff_min_ms": _between(backoff_min, 1, limits.RETRY_DELAY_MS_MAX, "backoff_min"),
        "backoff_max_ms": _between(backoff_max, 1, limits.RETRY_DELAY_MS_MAX, "backoff_max"),
    }
    return {name: value for name, value in given.items() if value is not None}


def checked_handling_max(value: Seconds) -> float:
    """Returns for how many seconds a handler's time is extended.

    Raises:
        InvalidOption: it is out of its range.
    """
    value_ms = _between(value, 0, limits.EXTEND_MS_MAX, "handling_max")
    if value_ms is None:
        raise InvalidOption("handling_max is a number of seconds or a timedelta; 0 extends nothing")
    return value_ms / 1000


def _between(value: Seconds | None, least_ms: int, most_ms: int, what: str) -> int | None:
    value_ms = milliseconds(value, what)
    if value_ms is not None and not least_ms <= value_ms <= most_ms:
        raise InvalidOption(f"{what} of {value_ms} ms is outside {least_ms} to {most_ms} ms")
    return value_ms


def start_of(start: Begin, what: str, words: tuple[str, ...] = ("latest", "earliest")) -> tuple[str, int]:
    """Returns a place in a queue as the server knows it, and its sequence or time. The words are those it may be.

    Raises:
        InvalidOption: it is none.
    """
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise InvalidOption(f"{what} {start} has no time zone; write datetime.now(timezone.utc) and the like")
        return "time", int(start.timestamp() * 1000)
    if isinstance(start, int) and not isinstance(start, bool) and 1 <= start < 1 << 63:
        return "sequence", start
    if isinstance(start, str) and start in words:
        return start, 0
    raise InvalidOption(f"{what} {start!r} is not {', '.join(map(repr, words))}, a sequence from 1 or a datetime")


def within(value: int | None, maximum: int, what: str) -> int | None:
    """Returns a count from 1, or None for none.

    Raises:
        InvalidOption: it is out of its range.
    """
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise InvalidOption(f"{what} of {value!r} is outside 1 to {maximum}")
    return value


def duration(value: Seconds | None, what: str) -> int | UnsetType | None:
    """Returns a setting that is a time, in milliseconds: UNSET for None, which leaves it, and None for no limit.

    Raises:
        InvalidOption: it is no time.
    """
    if value is None:
        return UNSET
    return None if value == inf else milliseconds(value, what)


def ttl_of(value: Seconds | None) -> int | None:
    """Returns the ttl of a message in milliseconds, None for none.

    Raises:
        InvalidOption: it is out of its range.
    """
    return _between(value, 1, limits.TTL_MS_MAX, "ttl")


def amount(value: float | None, what: str) -> int | UnsetType | None:
    """Returns a setting that is a number of things: UNSET for None, which leaves it, and None for no limit.

    Raises:
        InvalidOption: it is no such number.
    """
    if value is None:
        return UNSET
    if value == inf:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidOption(f"{what} of {value!r} is not a whole number from 0, or math.inf for no limit")
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
        raise InvalidOption(f"{what} of {value!r} is not a time; give seconds from 0 to below 1e12, or a timedelta")
    return round(seconds * 1000)
