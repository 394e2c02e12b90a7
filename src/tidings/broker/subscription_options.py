"""Subscription options: what is asked of a subscription, checked, and taken over by it."""

from __future__ import annotations

from tidings import limits
from tidings.broker.filters import Filter
from tidings.broker.inputs import Subscribe
from tidings.broker.sessions import Session
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription
from tidings.errors import InvalidOption, LimitReached, SubscriptionConflict, SubscriptionInUse
from tidings.model import check_label

_STARTS = ("latest", "earliest", "last", "sequence", "time")
_RANGES = {
    "in_flight_max": (1, limits.IN_FLIGHT_MAX),
    "ack_timeout_ms": (limits.ACK_TIMEOUT_MS_MIN, limits.ACK_TIMEOUT_MS_MAX),
    "attempts_max": (1, limits.ATTEMPTS_MAX_MAX),
    "backoff_min_ms": (1, limits.RETRY_DELAY_MS_MAX),
    "backoff_max_ms": (1, limits.RETRY_DELAY_MS_MAX),
    "expires_after_ms": (1, 2**53),
}


def name_of(session: Session, input: Subscribe, chosen: Filter) -> str:
    """Returns the name of the subscription that is asked for."""
    if input.shared and input.name is None:
        raise InvalidOption("a shared subscription needs a name, which all who share it give")
    if input.name is not None:
        return check_label(input.name, "subscription name")
    if session.client_id is not None and not input.end:
        return f"{session.client_id}:{chosen.address}"
    return f"~{session.connection}.{input.handle}:{chosen.address}"


def check_room(session: Session, handle: int) -> None:
    """Raises InvalidOption or LimitReached if a connection cannot attach one more with a handle."""
    if handle in session.subscribers:
        raise InvalidOption(f"handle {handle} is taken on this connection; use another number")
    if len(session.subscribers) >= limits.SUBSCRIPTIONS_PER_CONNECTION_MAX:
        raise LimitReached(
            f"this connection has {limits.SUBSCRIPTIONS_PER_CONNECTION_MAX} subscriptions, no more are allowed;"
            " use filters, or another connection"
        )


def check_same(subscription: Subscription, chosen: Filter, *, client_id: str | None, shared: bool) -> None:
    """Raises SubscriptionConflict if a subscription that is there cannot be the one that is asked for."""
    if subscription.shared != shared:
        asked, other = ("shared", "leave shared= out") if shared else ("not shared", "subscribe with shared=")
        is_shared = "shared" if subscription.shared else "not shared"
        raise SubscriptionConflict(
            f"subscription {subscription.name!r} is {is_shared}, and was asked for as one that is {asked}; {other},"
            " use another name, or delete it first"
        )
    if not subscription.shared and subscription.client_id != client_id:
        owner = f"client {subscription.client_id!r}" if subscription.client_id is not None else "anonymous clients"
        raise SubscriptionConflict(
            f"subscription {subscription.name!r} belongs to {owner}; use another name;"
            " to let several clients share one, delete it and make all of them subscribe with shared="
        )
    if subscription.filter != chosen:
        raise SubscriptionConflict(
            f"subscription {subscription.name!r} has the filter {subscription.filter}, not {chosen};"
            " use another name, or delete it first"
        )


def check_free(subscription: Subscription) -> None:
    """Raises SubscriptionInUse or LimitReached if nobody more can be attached to a subscription."""
    attached = subscription.attached()
    if attached and not subscription.shared:
        raise SubscriptionInUse(
            f"subscription {subscription.name!r} has {addresses(attached)}; use another name;"
            " to let several subscribers share one, make all of them subscribe with shared="
        )
    if len(attached) >= limits.MEMBERS_MAX:
        raise LimitReached(
            f"subscription {subscription.name!r} has {limits.MEMBERS_MAX} subscribers, no more are allowed;"
            " let each handle more messages at once"
        )


def addresses(attached: list[Subscriber]) -> str:
    """Names the first of those who are attached."""
    where = f"a subscriber at {attached[0].session.address}"
    return where if len(attached) == 1 else f"{where} and {len(attached) - 1} more"


def check_options(input: Subscribe, chosen: Filter) -> None:
    """Raises InvalidOption if what is asked for can never be."""
    for name, (least, most) in _RANGES.items():
        value = getattr(input, name)
        if value is not None:
            _check_range(name, value, least, most, default=0)
    _check_range("concurrency", input.concurrency, 1, limits.CONCURRENCY_MAX)
    if 0 < input.backoff_max_ms < input.backoff_min_ms:
        raise InvalidOption(
            f"backoff_max_ms of {input.backoff_max_ms} is less than backoff_min_ms of {input.backoff_min_ms}"
        )
    if input.single_active is not None and not input.shared:
        raise InvalidOption("single_active is for shared subscriptions; subscribe with shared=, too")
    if input.start not in _STARTS:
        raise InvalidOption(f"start {input.start!r} is not known; there are {', '.join(_STARTS)}")
    if input.start == "sequence" and not chosen.literal:
        raise InvalidOption(f"a start at a sequence needs one queue, {chosen.queue!r} may be many; use a time")
    if input.start == "sequence":
        _check_range("start sequence", input.start_value, 1, 2**62)


def _check_range(what: str, value: int, least: int, most: int, *, default: int | None = None) -> None:
    if value != default and not least <= value <= most:
        raise InvalidOption(f"{what} is {value}; it can be {least} to {most}")


def apply_options(subscription: Subscription, input: Subscribe) -> None:
    """Lets a subscription be as it is asked for."""
    subscription.in_flight_max = input.in_flight_max or subscription.in_flight_max
    subscription.concurrency = input.concurrency
    if input.single_active is not None:
        subscription.single_active = input.single_active
    subscription.ack_timeout_ms = input.ack_timeout_ms or subscription.ack_timeout_ms
    subscription.attempts_max = input.attempts_max or subscription.attempts_max
    set_backoff(subscription, input.backoff_min_ms or None, input.backoff_max_ms or None)
    if input.expires_after_ms is not None:
        subscription.expires_after_ms = input.expires_after_ms or None


def set_backoff(subscription: Subscription, least_ms: int | None, most_ms: int | None) -> None:
    """Sets one or both ends of the backoff; one that is given alone moves the other where they would cross."""
    if least_ms is not None and most_ms is not None and most_ms < least_ms:
        raise InvalidOption(f"backoff_max_ms of {most_ms} is less than backoff_min_ms of {least_ms}")
    if least_ms is not None:
        subscription.backoff_min_ms = least_ms
        subscription.backoff_max_ms = max(subscription.backoff_max_ms, least_ms)
    if most_ms is not None:
        subscription.backoff_max_ms = most_ms
        subscription.backoff_min_ms = min(subscription.backoff_min_ms, most_ms)


def check_setting(name: str, value: int) -> None:
    """Raises InvalidOption if a setting that is changed later is out of its range."""
    if name in _RANGES:
        _check_range(name, value, *_RANGES[name])
