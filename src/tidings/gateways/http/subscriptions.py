"""Subscriptions over HTTP: listed, made, configured, moved, paused and deleted."""

from typing import Any, Final, cast

import msgspec
from litestar import Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath

from tidings.broker import inputs
from tidings.broker.filters import Filter
from tidings.calls import ConfigureSubscription, Pause, Seek
from tidings.errors import NotFound, SubscriptionConflict
from tidings.gateways.http.bodies import AnyRequest, read_struct
from tidings.gateways.http.clients import After, ClientId
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.http.listings import subscription_infos
from tidings.gateways.http.reference import takes_struct
from tidings.gateways.http.tags import IfMatch, etag, wanted_tag
from tidings.model import MovedInfo, SubscriptionInfo, parse_header_filters
from tidings.node import Conversation


class SubscriptionPage(msgspec.Struct, frozen=True):
    """A page of subscriptions, an entry for each of their queues; `after` continues it, "" ends it."""

    subscriptions: list[SubscriptionInfo]
    after: str


class SubscriptionState(msgspec.Struct, frozen=True):
    """A subscription, with an entry for each of its queues."""

    name: str
    queues: list[SubscriptionInfo]


class MovedQueues(msgspec.Struct, frozen=True):
    """How a subscription was moved in each of its queues."""

    queues: list[MovedInfo]


class NewSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription is to get, and how. Zeros and null mean defaults.

    `queue` and `event` are patterns: `*` is one token, a last `#` any number. Each of `headers` is `NAME=VALUE`,
    `NAME^=PREFIX`, or `NAME` for one that is there. `start` is latest, earliest, or with `start_value` sequence or time
    (UTC ms).
    """

    queue: str
    event: str = "#"
    headers: list[str] = []
    start: str = "latest"
    start_value: int = 0
    shared: bool = False
    single_active: bool | None = None
    in_flight_max: int = 0
    ack_timeout_ms: int = 0
    attempts_max: int = 0
    backoff_min_ms: int = 0
    backoff_max_ms: int = 0
    expires_after_ms: int | None = None


_SETTINGS: Final = ("in_flight_max", "ack_timeout_ms", "attempts_max", "backoff_min_ms", "backoff_max_ms")


@get("/subscriptions", tags=["subscriptions"], summary="List subscriptions")
async def list_subscriptions(door: NamedDependency[Door], after: After = "") -> SubscriptionPage:
    """Where each stands in each of its queues, who is attached, and why deliveries wait if they do."""
    page = await (await door.clerk()).list("subscriptions", after)
    return SubscriptionPage([info for info in page.entries if isinstance(info, SubscriptionInfo)], page.after)


@get("/subscriptions/{name:str}", tags=["subscriptions"], summary="Look at a subscription")
async def get_subscription(door: NamedDependency[Door], name: FromPath[str]) -> Response[SubscriptionState]:
    """Where it stands in each of its queues."""
    return await _state(await door.clerk(), decode_segment(name))


@put(
    "/subscriptions/{name:str}",
    status_code=200,
    responses={201: ResponseSpec(SubscriptionState, description="It was made.", generate_examples=False)},
    tags=["subscriptions"],
    summary="Make a subscription, or configure it",
    opt=takes_struct(NewSubscription),
)
async def put_subscription(
    request: AnyRequest, door: NamedDependency[Door], name: FromPath[str], client_id: ClientId = None
) -> Response[SubscriptionState]:
    """From now on it holds what it is to get, whether somebody is there or not (201).

    One that is there with the same filter gets the settings that are given (200); one with another filter is refused.
    """
    name = decode_segment(name)
    new = await read_struct(request, NewSubscription)
    clerk = await door.clerk()
    there = await subscription_infos(clerk, name)
    if not there:
        async with door.acting_as(client_id) as client:
            attachment = await client.subscribe(_wanted(name, new))
            await attachment.detach()
    else:
        _check_same(there[0], new, client_id)
        await clerk.call(_changes(name, new))
    return await _state(clerk, name, status_code=200 if there else 201)


@patch(
    "/subscriptions/{name:str}",
    tags=["subscriptions"],
    summary="Configure a subscription",
    opt=takes_struct(ConfigureSubscription, without=("name", "if_match")),
)
async def patch_subscription(
    request: AnyRequest, door: NamedDependency[Door], name: FromPath[str], if_match: IfMatch = None
) -> Response[SubscriptionState]:
    """What is left out stays as it is. It holds from now on, for what is in flight, too.

    With If-Match only if nobody changed its settings in between (412).
    """
    name = decode_segment(name)
    clerk = await door.clerk()
    await clerk.call(await read_struct(request, ConfigureSubscription, name=name, if_match=wanted_tag(if_match)))
    return await _state(clerk, name)


@delete("/subscriptions/{name:str}", tags=["subscriptions"], summary="Delete a subscription")
async def delete_subscription(door: NamedDependency[Door], name: FromPath[str], if_match: IfMatch = None) -> None:
    """With its cursors and its dead letters. One that somebody reads is refused: DELETE its hold first.

    With If-Match only if nobody changed its settings in between (412).
    """
    await (await door.clerk()).delete("subscription", decode_segment(name), wanted_tag(if_match))


@post("/subscriptions/{name:str}/pause", status_code=204, tags=["subscriptions"], summary="Pause a subscription")
async def pause_subscription(door: NamedDependency[Door], name: FromPath[str]) -> None:
    """It gets nothing new until it is resumed."""
    await (await door.clerk()).call(Pause(subscription=decode_segment(name)))


@post("/subscriptions/{name:str}/resume", status_code=204, tags=["subscriptions"], summary="Resume a subscription")
async def resume_subscription(door: NamedDependency[Door], name: FromPath[str]) -> None:
    """Deliveries go on where they stopped."""
    await (await door.clerk()).call(Pause(subscription=decode_segment(name), paused=False))


@post(
    "/subscriptions/{name:str}/seek",
    status_code=200,
    tags=["subscriptions"],
    summary="Move a subscription, forward or back",
    opt=takes_struct(Seek, without=("subscription",)),
)
async def seek_subscription(request: AnyRequest, door: NamedDependency[Door], name: FromPath[str]) -> MovedQueues:
    """`to` is earliest, latest, or with `value` sequence or time (UTC ms): it gets all from there on."""
    call = await read_struct(request, Seek, subscription=decode_segment(name))
    return MovedQueues(cast("list[MovedInfo]", await (await door.clerk()).call(call)))


async def _state(conversation: Conversation, name: str, status_code: int = 200) -> Response[SubscriptionState]:
    infos = await subscription_infos(conversation, name)
    if not infos:
        raise NotFound(f"there is no subscription {name!r}; GET /subscriptions lists them")
    headers = etag(ConfigureSubscription, infos[0])
    return Response(SubscriptionState(name, infos), status_code=status_code, headers=headers)


def _wanted(name: str, new: NewSubscription) -> inputs.Subscribe:
    given = msgspec.structs.asdict(new) | {"headers": parse_header_filters(new.headers)}
    return inputs.Subscribe(name=name, pulls=True, **given)


def _check_same(info: SubscriptionInfo, new: NewSubscription, client_id: str | None) -> None:
    asked = str(Filter(new.queue, new.event, parse_header_filters(new.headers)))
    if info.filter != asked:
        raise SubscriptionConflict(
            f"subscription {info.name!r} has the filter {info.filter}, not {asked}; use another name, or delete it"
        )
    if (info.shared, info.client_id) != (new.shared, None if new.shared else client_id):
        kind = "is shared" if info.shared else f"belongs to {info.client_id or 'anonymous clients'}"
        raise SubscriptionConflict(f"subscription {info.name!r} {kind}; use another name, or delete it first")


def _changes(name: str, new: NewSubscription) -> ConfigureSubscription:
    changes: dict[str, Any] = {setting: value for setting in _SETTINGS if (value := getattr(new, setting))}
    if new.expires_after_ms is not None:
        changes["expires_after_ms"] = new.expires_after_ms or None
    if new.single_active is not None:
        changes["single_active"] = new.single_active
    return ConfigureSubscription(name=name, **changes)


HANDLERS = [
    list_subscriptions,
    get_subscription,
    put_subscription,
    patch_subscription,
    delete_subscription,
    pause_subscription,
    resume_subscription,
    seek_subscription,
]
