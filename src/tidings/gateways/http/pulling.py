"""Pulling over HTTP: ask for messages, wait for them if there are none, and settle them by their positions."""

from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, QueryParameter

from tidings import limits
from tidings.broker import effects, inputs
from tidings.gateways import cloudevents
from tidings.gateways.http.accepting import accepted
from tidings.gateways.http.bodies import read_struct
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.http.puller import Item
from tidings.gateways.http.reference import takes_struct
from tidings.gateways.http.subscriptions import AnyRequest, ClientId
from tidings.gateways.messages import GapEntry, MessageEntry, gap_entry, message_entry
from tidings.model import JSON, Failure, parse_header_filters

_PATH = "/subscriptions/{name:str}"
_WAIT_S_MAX = limits.PULL_WAIT_MS_MAX / 1000


class Pulled(msgspec.Struct, frozen=True):
    """What was asked for: messages in the order of their delivery, and gaps, to be acked by their positions, too."""

    messages: list[MessageEntry]
    gaps: list[GapEntry]


class Positions(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries by the positions that they came with."""

    positions: Annotated[list[str], msgspec.Meta(min_length=1, max_length=limits.ACK_RANGES_MAX)]


class FailureReport(msgspec.Struct, frozen=True, kw_only=True):
    """Why handling failed, as dead letters show it. `place` is where: those of one type and place are grouped."""

    type: str
    text: str = ""
    place: str = ""
    traceback: str = ""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries that failed: again after `delay_ms`, or the backoff; or at once dead letters, with `reject`."""

    positions: Annotated[list[str], msgspec.Meta(min_length=1, max_length=limits.ACK_RANGES_MAX)]
    delay_ms: int | None = None
    reject: bool = False
    failure: FailureReport | None = None


@get(
    f"{_PATH}/messages",
    tags=["pull"],
    summary="Pull messages",
    responses={204: ResponseSpec(None, description="No CloudEvent is there.", generate_examples=False)},
)
async def pull(
    request: AnyRequest,
    door: NamedDependency[Door],
    name: FromPath[str],
    client_id: ClientId = None,
    queue: Annotated[str | None, QueryParameter(description="Makes the subscription, if it is not there.")] = None,
    event: Annotated[str, QueryParameter(description="With queue: which events.")] = "#",
    header: Annotated[
        list[str] | None, QueryParameter(description="With queue: NAME=VALUE, NAME^=BEGIN, NAME.")
    ] = None,
    start: Annotated[str, QueryParameter(name="from", description="With queue: latest or earliest.")] = "latest",
    count: Annotated[int, QueryParameter(name="max", ge=1, le=limits.PULL_COUNT_MAX)] = limits.PULL_COUNT_DEFAULT,
    wait: Annotated[float, QueryParameter(description="Seconds to wait for the first one.", ge=0, le=_WAIT_S_MAX)] = 0,
    take_over: Annotated[bool, QueryParameter(description="Take the client id from who has it.")] = False,
) -> Response[Pulled]:
    """Returns messages that are there, or with `wait` the first that come. Each is to be acked, by its position.

    The subscription is held for a minute after the last request, or for an ack timeout while there is something to
    ack; others are not let in as long. With Accept: application/cloudevents-batch+json the answer is CloudEvents,
    with application/cloudevents+json one.
    """
    name = decode_segment(name)
    kind = accepted(request, (JSON, cloudevents.BATCH, cloudevents.STRUCTURED))
    if kind == cloudevents.STRUCTURED:
        count = 1
    wanted = None
    if queue is not None:
        headers = parse_header_filters(header or ())
        wanted = inputs.Subscribe(queue=queue, event=event, headers=headers, start=start)
    address = ":".join(map(str, request.scope.get("client") or ("unknown",)))

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    async with door.pullers.hold(client_id, name, wanted, address=address, take_over=take_over) as puller:
        items = await puller.pull(count, round(wait * 1000), gone)
    return _answer(kind, items)


@post(f"{_PATH}/ack", status_code=204, tags=["pull"], summary="Ack messages", opt=takes_struct(Positions))
async def ack(
    request: AnyRequest, door: NamedDependency[Door], name: FromPath[str], client_id: ClientId = None
) -> None:
    """They are done, durably once this is answered, and never come again."""
    body = await read_struct(request, Positions)
    with door.pullers.held(client_id, decode_segment(name)) as puller:
        await puller.ack(body.positions)


@post(f"{_PATH}/nack", status_code=204, tags=["pull"], summary="Give messages back as failed", opt=takes_struct(Failed))
async def nack(
    request: AnyRequest, door: NamedDependency[Door], name: FromPath[str], client_id: ClientId = None
) -> None:
    """They come again, up to the subscription's attempts; then they are dead letters."""
    body = await read_struct(request, Failed)
    told = body.failure
    failure = Failure(told.type, told.text, told.place, told.traceback) if told else None
    with door.pullers.held(client_id, decode_segment(name)) as puller:
        await puller.nack(body.positions, delay_ms=body.delay_ms, reject=body.reject, failure=failure)


@post(f"{_PATH}/extend", status_code=204, tags=["pull"], summary="Ask for more time", opt=takes_struct(Positions))
async def extend(
    request: AnyRequest, door: NamedDependency[Door], name: FromPath[str], client_id: ClientId = None
) -> None:
    """They have their whole ack timeout again."""
    body = await read_struct(request, Positions)
    with door.pullers.held(client_id, decode_segment(name)) as puller:
        await puller.extend(body.positions)


@delete(f"{_PATH}/hold", tags=["pull"], summary="Give a subscription back")
async def give_back(door: NamedDependency[Door], name: FromPath[str], client_id: ClientId = None) -> None:
    """Ends the hold of who pulled. What is in flight goes back at once and counts no attempt; others are let in."""
    door.pullers.give_back(client_id, decode_segment(name))


def _answer(kind: str, items: list[Item]) -> Response[Any]:
    if kind == cloudevents.BATCH:
        return Response(msgspec.json.encode(cloudevents.batch_entry(items)), media_type=kind)
    if kind == cloudevents.STRUCTURED:
        if not items:
            return Response(None, status_code=204)
        return Response(msgspec.json.encode(cloudevents.event_entry(items[0])), media_type=kind)
    messages = [message_entry(item) for item in items if not isinstance(item, effects.Gap)]
    gaps = [gap_entry(item) for item in items if isinstance(item, effects.Gap)]
    return Response(Pulled(messages, gaps))


HANDLERS = [pull, ack, nack, extend, give_back]
