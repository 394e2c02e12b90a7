"""Settling over HTTP: messages acked, given back and extended by requests, whether they were pulled or streamed.

1. They are settled with whoever they were delivered to as this client: who pulls, or its streams.
2. An ack counts also where that has ended meanwhile, by its lease or since the server was started again: the client is
   attached again for it. Only what may have been delivered to it counts, and nothing that somebody else has by now.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeAlias

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath

from tidings import limits
from tidings.errors import (
    ClientIdInUse,
    DeliveryTakenAway,
    SubscriptionConflict,
    SubscriptionInUse,
)
from tidings.gateways.http.bodies import AnyRequest, read_struct
from tidings.gateways.http.clients import ClientId
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.http.reference import takes_struct
from tidings.gateways.messages import ranges_of
from tidings.gateways.scopes import address_of
from tidings.model import Failure, Reading
from tidings.node import Attachment

_PATH = "/subscriptions/{name:str}"
_Ranges: TypeAlias = list[tuple[Reading, int, int]]
_Positions: TypeAlias = Annotated[list[str], msgspec.Meta(min_length=1, max_length=limits.ACK_RANGES_MAX)]


class Positions(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries by the positions that they came with."""

    positions: _Positions


class FailureReport(msgspec.Struct, frozen=True, kw_only=True):
    """Why handling failed, as dead letters show it. `place` is where: those of one type and place are grouped."""

    type: str
    text: str = ""
    place: str = ""
    traceback: str = ""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries that failed: again after `delay_ms`, or the backoff; or at once dead letters, with `reject`."""

    positions: _Positions
    delay_ms: int | None = None
    reject: bool = False
    failure: FailureReport | None = None


@post(f"{_PATH}/ack", status_code=204, tags=["settle"], summary="Ack messages", opt=takes_struct(Positions))
async def ack(
    request: AnyRequest, door: NamedDependency[Door], name: FromPath[str], client_id: ClientId = None
) -> None:
    """They are done, durably once this is answered, and never come again.

    That holds also after the hold has ended, or the server was started again, if nobody else has them by now.
    """
    body = await read_struct(request, Positions)
    reader = (client_id, decode_segment(name))
    held = door.pullers.holds(*reader)
    try:
        await _settle(door, client_id, name, body.positions, _ack)
    except DeliveryTakenAway:
        # Of whoever is attached it is known what may have been delivered.
        if held or door.streams(reader):
            raise
        await _ack_late(request, door, *reader, body.positions)


@post(f"{_PATH}/nack", status_code=204, tags=["settle"], summary="Give back what failed", opt=takes_struct(Failed))
async def nack(
    request: AnyRequest, door: NamedDependency[Door], name: FromPath[str], client_id: ClientId = None
) -> None:
    """They come again, up to the subscription's attempts; then they are dead letters."""
    body = await read_struct(request, Failed)
    told = body.failure
    failure = Failure(told.type, told.text, told.place, told.traceback) if told else None

    async def give_back(attachment: Attachment, ranges: _Ranges) -> None:
        await attachment.nack(ranges, delay_ms=body.delay_ms, reject=body.reject, failure=failure)

    await _settle(door, client_id, name, body.positions, give_back)


@post(f"{_PATH}/extend", status_code=204, tags=["settle"], summary="Ask for more time", opt=takes_struct(Positions))
async def extend(
    request: AnyRequest, door: NamedDependency[Door], name: FromPath[str], client_id: ClientId = None
) -> None:
    """They have their whole ack timeout again."""
    body = await read_struct(request, Positions)
    await _settle(
        door, client_id, name, body.positions, lambda attachment, ranges: attachment.extend(ranges), ends=False
    )


async def _ack(attachment: Attachment, ranges: _Ranges) -> None:
    await attachment.ack(ranges, earlier=True)


async def _ack_late(request: AnyRequest, door: Door, client_id: str | None, name: str, positions: list[str]) -> None:
    """Acks what was delivered to a client that is not attached any more."""
    ranges = _merge(sorted(set(ranges_of(positions))))
    address = address_of(request.scope)
    try:
        async with door.pullers.hold(client_id, name, None, address=address, lasts=False) as puller:
            await _ack(puller.attachment, ranges)
    except (SubscriptionInUse, ClientIdInUse, SubscriptionConflict) as error:
        raise DeliveryTakenAway(f"it is not this client's any more: {error.text}") from None


async def _settle(
    door: Door,
    client_id: str | None,
    name: str,
    positions: list[str],
    verb: Callable[[Attachment, _Ranges], Awaitable[None]],
    *,
    ends: bool = True,
) -> None:
    """Settles deliveries with whoever they were delivered to: who pulls as this client, or its streams."""
    name = decode_segment(name)
    places = sorted(set(ranges_of(positions)))
    with door.pullers.renewed(client_id, name) as puller:
        attachments = [stream.attachment for stream in door.streams((client_id, name))]
        if puller:
            attachments.insert(0, puller.attachment)
            if ends:
                puller.settled(places, acked=verb is _ack)
        if len(attachments) == 1:
            await verb(attachments[0], _merge(places))
        else:
            await _settle_one_by_one(attachments, places, verb, name)


async def _settle_one_by_one(
    attachments: list[Attachment],
    places: _Ranges,
    verb: Callable[[Attachment, _Ranges], Awaitable[None]],
    name: str,
) -> None:
    refused: DeliveryTakenAway | None = None
    for place in places:
        taken_away: DeliveryTakenAway | None = DeliveryTakenAway(
            f"nobody has messages of subscription {name!r} in flight over HTTP as this client (client_id): what was in"
            " flight is delivered again; settle as who pulled, before the ack timeout is over"
        )
        for attachment in attachments:
            try:
                await verb(attachment, [place])
            except DeliveryTakenAway as error:
                taken_away = error  # another stream of this reader may have it
            else:
                taken_away = None
                break
        refused = refused or taken_away
    if refused:
        raise refused


def _merge(places: _Ranges) -> _Ranges:
    """Joins neighbours; but a range from 1 would mean all that was delivered up to its end."""
    merged: _Ranges = []
    for reading, first, last in places:
        if merged and merged[-1][0] == reading and merged[-1][2] == first - 1 and merged[-1][1] != 1:
            merged[-1] = (reading, merged[-1][1], last)
        else:
            merged.append((reading, first, last))
    return merged


HANDLERS = [ack, nack, extend]
