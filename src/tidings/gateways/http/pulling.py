"""Pulling over HTTP: ask for messages, and wait for them if there are none."""

from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, QueryParameter

from tidings import limits
from tidings.broker import effects, inputs
from tidings.gateways import cloudevents
from tidings.gateways.http.accepting import accepted
from tidings.gateways.http.bodies import AnyRequest
from tidings.gateways.http.clients import ClientId
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.http.puller import Item
from tidings.gateways.messages import GapEntry, MessageEntry, gap_entry, message_entry, parse_begin
from tidings.gateways.scopes import address_of
from tidings.model import BYTES, JSON, parse_header_filters

_PATH = "/subscriptions/{name:str}"
_BINARY = "binary"  # no media type, but a mode of CloudEvents
_WAIT_S_MAX = limits.PULL_WAIT_MS_MAX / 1000


class Pulled(msgspec.Struct, frozen=True):
    """What was asked for: messages in the order of their delivery, and gaps, to be acked by their positions, too."""

    messages: list[MessageEntry]
    gaps: list[GapEntry]


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
    start: Annotated[
        str,
        QueryParameter(name="from", description="With queue: earliest, latest, last, a sequence, a time with offset."),
    ] = "latest",
    count: Annotated[int, QueryParameter(name="max", ge=1, le=limits.PULL_COUNT_MAX)] = limits.PULL_COUNT_DEFAULT,
    wait: Annotated[float, QueryParameter(description="Seconds to wait for the first one.", ge=0, le=_WAIT_S_MAX)] = 0,
    binary: Annotated[
        bool, QueryParameter(description="One message as it is: its payload is the body, the rest is in headers `ce-`.")
    ] = False,
    take_over: Annotated[bool, QueryParameter(description="Take the client id from who has it.")] = False,
) -> Response[Pulled]:
    """Returns messages that are there, or with `wait` the first that come. Each is to be acked, by its position.

    The subscription is held for a minute after the last request, or for an ack timeout while there is something to
    ack; others are not let in as long. With Accept: application/cloudevents-batch+json the answer is CloudEvents,
    with application/cloudevents+json one, and with `binary` one in binary mode.
    """
    name = decode_segment(name)
    kind = _BINARY if binary else accepted(request, (JSON, cloudevents.BATCH, cloudevents.STRUCTURED))
    if kind in (_BINARY, cloudevents.STRUCTURED):
        count = 1
    wanted = None
    if queue is not None:
        headers = parse_header_filters(header or ())
        begins, value = parse_begin(start)
        wanted = inputs.Subscribe(queue=queue, event=event, headers=headers, start=begins, start_value=value)
    address = address_of(request.scope)

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    async with door.pullers.hold(client_id, name, wanted, address=address, take_over=take_over) as puller:
        items = await puller.pull(count, round(wait * 1000), gone)
    return _answer(kind, items)


@delete(f"{_PATH}/hold", tags=["pull"], summary="Give a subscription back")
async def give_back(door: NamedDependency[Door], name: FromPath[str], client_id: ClientId = None) -> None:
    """Ends the hold of who pulled. What is in flight goes back at once and counts no attempt; others are let in."""
    door.pullers.give_back(client_id, decode_segment(name))


def _answer(kind: str, items: list[Item]) -> Response[Any]:
    if kind == cloudevents.BATCH:
        return Response(msgspec.json.encode(cloudevents.batch_entry(items)), media_type=kind)
    if kind in (_BINARY, cloudevents.STRUCTURED) and not items:
        return Response(None, status_code=204)
    if kind == _BINARY:
        headers, body = cloudevents.binary_event(items[0])
        # As a header: to a media type text/* the framework would add a character set.
        return Response(body, headers={"content-type": BYTES} | headers)
    if kind == cloudevents.STRUCTURED:
        return Response(msgspec.json.encode(cloudevents.event_entry(items[0])), media_type=kind)
    messages = [message_entry(item) for item in items if not isinstance(item, effects.Gap)]
    gaps = [gap_entry(item) for item in items if isinstance(item, effects.Gap)]
    return Response(Pulled(messages, gaps))


HANDLERS = [pull, give_back]
