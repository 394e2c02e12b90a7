"""Server-Sent Events: what a subscription is delivered, as a stream that a browser's EventSource reads as it is.

    GET /queues/{queue}/events              a reader that remembers its place itself, and hands it back
    GET /subscriptions/{name}/events        a durable subscription, whose place the server remembers

The stream (https://html.spec.whatwg.org/multipage/server-sent-events.html) is made of

    retry: 1000                             once: how long to wait before connecting again
    id: POSITION                            of the reader, once before the first message and then with each of them
    event: NAME                             of the message; `$gap` tells of a gap, `$error` why the stream ends
    data: {...}                             the message, on one line
    :                                       a heartbeat, every HEARTBEAT_MS without a message

Who comes back hands over the last id (EventSource does so by itself, in the header Last-Event-ID), and goes on there:

    a queue's reader                        exactly, also when the server was started again
    a subscription that acks by request     at its cursor: what was not acked comes again
    a subscription that acks on write       exactly: what was acked and not read comes again (`Subscribe.rewinds`)

What cannot be found any more is told as a gap first. A reader that comes back replaces its own former stream, which
the server may still take for alive.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.types import ASGIApp, Receive, Scope, Send

from tidings import limits
from tidings.broker import effects, inputs
from tidings.errors import ClientIdInUse, InvalidOption, LimitReached, SubscriptionInUse, TidingsError
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.messages import (
    GapEntry,
    error_entry,
    forgotten_entries,
    gap_entry,
    parse_begin,
    parse_position,
    spell_position,
    standing,
)
from tidings.gateways.scopes import address_of
from tidings.gateways.spellings import Spellings
from tidings.model import ELSEWHERE, Reading, parse_header_filters
from tidings.node import Attachment, Conversation, Delivery, open_conversation

PROTOCOL: Final = "sse"
RETRY_MS: Final = 1_000

_HEARTBEAT: Final = b":\n\n"
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep the stream until its buffer is full
]


class EventStream:
    """One reader's stream, an ASGI application.

    Args:
        attachment: what it reads.
        conversation: over which that is attached; ended with the stream.
        places: how far the reader has come, by epoch.
        settles: whether what was written is acked.
        whole: whether an id is the place in all queues, or only that of its message.
        named: whether messages are dispatched by the names of their events.
        news: set when there is something to take.
        spellings: how messages are spelled.
        gaps: what is told before the first message.
        ended: called once, at the end.
    """

    def __init__(
        self,
        attachment: Attachment,
        conversation: Conversation,
        places: dict[Reading, int],
        *,
        settles: bool,
        whole: bool,
        named: bool,
        news: asyncio.Event,
        spellings: Spellings[bytes],
        gaps: Sequence[GapEntry] = (),
        ended: Callable[["EventStream"], None] | None = None,
    ) -> None:
        self.attachment = attachment
        self._conversation = conversation
        self._places = places
        self._settles = settles
        self._whole = whole
        self._named = named
        self._gaps = gaps
        self._ended = ended
        self._gone = False
        self._news = news
        self._spellings = spellings

    def end(self) -> None:
        """Ends it: what is in flight goes back to the subscription."""
        self._conversation.close(reason="the same reader came back")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams until the reader or the server goes."""
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch(receive))
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                await send(_part(self._opening()))
                await self._stream(send)
                if not self._gone:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                watching.cancel()
        finally:
            self._conversation.close(farewell=not self._gone, reason="the stream ended")
            if self._ended:
                self._ended(self)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass  # a request without a body has nothing else to say
        self._gone = True
        self._news.set()

    async def _stream(self, send: Send) -> None:
        while not self._gone:
            self._news.clear()
            try:
                data, ranges = self._take()
            except TidingsError as error:
                await send(_part(_event(None, "$error", msgspec.json.encode(error_entry(error)))))
                return
            if data:
                await send(_part(bytes(data)))
                if self._settles and not self._gone:
                    self.attachment.ack_soon(ranges)
            elif self.attachment.error:
                return
            else:
                await self._wait(send)

    async def _wait(self, send: Send) -> None:
        try:
            async with asyncio.timeout(limits.HEARTBEAT_MS / 1000):
                await self._news.wait()
        except TimeoutError:
            await send(_part(_HEARTBEAT))

    def _opening(self) -> bytes:
        # An id without data is remembered and not dispatched: who is cut off before the first message has it too.
        lines = [f"retry: {RETRY_MS}\n".encode()]
        lines.append(b"id: %b\n" % spell_position(self._places or {ELSEWHERE: 0}).encode())
        gaps = [_event(None, "$gap", msgspec.json.encode(gap)) for gap in self._gaps]
        return b"".join([*lines, b"\n", *gaps])

    def _take(self) -> tuple[bytearray, list[tuple[Reading, int, int]]]:
        """Returns what is there, up to a bound, and what that settles."""
        data, ranges = bytearray(), list[tuple[Reading, int, int]]()
        while len(data) < limits.EVENT_STREAM_PART_BYTES and (item := self.attachment.take()) is not None:
            first = last = item.last_sequence if isinstance(item, effects.Gap) else item.sequence
            if isinstance(item, effects.Gap):
                first = item.first_sequence
            data += self._spell(item, last)
            if ranges and ranges[-1][0] == item.epoch and ranges[-1][2] == first - 1:
                first = ranges.pop()[1]
            ranges.append((item.epoch, first, last))
        return data, ranges

    def _spell(self, item: Delivery | effects.Gap, sequence: int) -> bytes:
        place = {item.epoch: sequence}
        if self._whole:
            place = self._moved_to(item.epoch, sequence)
        position = spell_position(place)
        if isinstance(item, effects.Gap):
            return _event(position, "$gap", msgspec.json.encode(gap_entry(item)))
        return _event(position, item.event if self._named else None, self._spellings.of(item))

    def _moved_to(self, epoch: Reading, sequence: int) -> dict[Reading, int]:
        places = self._places
        if epoch not in places and len(places) >= limits.POSITION_QUEUES_MAX:
            first = next(iter(places))  # the longest silent
            if not self.attachment.durable and first != ELSEWHERE:
                raise LimitReached(_TOO_MANY.format(len(places) + 1))
            del places[first]  # the server knows where it stands there
        # The latest is the last.
        places[epoch] = max(sequence, places.pop(epoch, 0))
        return places


_TOO_MANY: Final = (
    "the stream reads {} queues, and the position of a reader holds"
    f" {limits.POSITION_QUEUES_MAX}; read them as a subscription (/subscriptions/NAME/events), whose places the server"
    " remembers"
)


def _event(position: str | None, name: str | None, data: bytes) -> bytes:
    lines = [b"id: %b\n" % position.encode()] if position is not None else []
    if name is not None:
        lines.append(b"event: %b\n" % name.encode())
    return b"%bdata: %b\n\n" % (b"".join(lines), data)


def _part(body: bytes) -> Any:
    return {"type": "http.response.body", "body": body, "more_body": True}


# --- where streams begin ---

AnyRequest = Request[Any, Any, Any]
_Event = Annotated[
    str | None, QueryParameter(description="Event, or a filter: `*` is one token, a last `#` any number.")
]
_Header = Annotated[
    list[str] | None, QueryParameter(description="What is wanted of headers: NAME=VALUE, NAME^=BEGIN, NAME.")
]
_From = Annotated[
    str | None,
    QueryParameter(
        name="from",
        description="Where it begins: `earliest`, `latest`, `last` of each event, a sequence, a time with offset.",
    ),
]
_CatchAll = Annotated[
    bool, QueryParameter(description="All messages come as `message`, whatever their event: for `onmessage`.")
]
_LastEventId = Annotated[
    str | None, HeaderParameter(name="Last-Event-ID", description="The last id that was received.")
]
_Position = Annotated[
    str | None, QueryParameter(description="As the header Last-Event-ID, which goes before it: for the first request.")
]
_Queue = Annotated[str | None, QueryParameter(description="Of a new subscription: its queue, or a filter.")]
_Shared = Annotated[bool, QueryParameter(description="Several may read it, each message goes to one of them.")]
_InFlight = Annotated[int, QueryParameter(description="Most messages that may wait for their ack; 0 for the default.")]
_ClientId = Annotated[str | None, QueryParameter(description="Who reads: the owner of the subscription.")]
_Acks = Annotated[Literal["request", "write"], QueryParameter(description="What acks a message.")]
_ANSWER: Final = {
    200: ResponseSpec(str, description="A stream of events.", media_type="text/event-stream", generate_examples=False)
}


@get(
    "/queues/{queue:str}/events",
    responses=_ANSWER,
    tags=["events"],
    summary="Read a queue as a stream of Server-Sent Events",
)
async def queue_events(
    request: AnyRequest,
    door: NamedDependency[Door],
    queue: FromPath[str],
    event: _Event = None,
    header: _Header = None,
    from_: _From = None,
    catch_all: _CatchAll = False,
    position: _Position = None,
    last_event_id: _LastEventId = None,
) -> ASGIApp:
    """Streams what is published into the queues that a filter matches, from now or from a place on.

    Nothing of it is kept for the reader: each message has an `id`, and who hands over the last one goes on there.
    """
    queue = decode_segment(queue)
    place = last_event_id or position
    start, value = ("earliest", 0) if place else parse_begin(from_ or "latest")
    places = parse_position(place) if place else {}
    wanted = inputs.Subscribe(
        queue=queue,
        event=event or "#",
        headers=parse_header_filters(header or ()),
        start=start,
        start_value=value,
        resume=[inputs.Resume(epoch, sequence, []) for epoch, sequence in places.items()],
    )
    news = asyncio.Event()
    conversation, attachment = await _attach(door, request, None, wanted, news)
    begins = dict(attachment.places)
    if len(begins) > limits.POSITION_QUEUES_MAX:
        conversation.close()
        raise LimitReached(_TOO_MANY.format(len(begins)))
    return EventStream(
        attachment,
        conversation,
        begins,
        settles=True,
        whole=True,
        named=not catch_all,
        news=news,
        spellings=door.spellings,
        gaps=forgotten_entries(queue, places, begins),
    )


@get(
    "/subscriptions/{name:str}/events",
    responses=_ANSWER,
    tags=["events"],
    summary="Read a durable subscription as a stream of Server-Sent Events",
)
async def subscription_events(
    request: AnyRequest,
    door: NamedDependency[Door],
    name: FromPath[str],
    queue: _Queue = None,
    event: _Event = None,
    header: _Header = None,
    from_: _From = None,
    shared: _Shared = False,
    in_flight_max: _InFlight = 0,
    client_id: _ClientId = None,
    ack: _Acks = "request",
    catch_all: _CatchAll = False,
    position: _Position = None,
    last_event_id: _LastEventId = None,
) -> ASGIApp:
    """Streams what a durable subscription is delivered; it is made if there is none of the name and a queue is given.

    Each message is acked by a request (POST /subscriptions/NAME/ack, with the id of the message), or once it is
    written. What is not acked comes again.
    """
    if queue is None and (event, header, from_) != (None, None, None):
        raise InvalidOption("event, header and from are for a new subscription; say of which queue, or leave them out")
    place = last_event_id or position
    places = parse_position(place) if place else {}
    on_write = ack == "write"
    # Who was there before and finds no subscription any more must not miss what came meanwhile.
    start, value = parse_begin(from_ or ("earliest" if place else "latest"))
    wanted = inputs.Subscribe(
        queue=queue or "",
        event=event or "#",
        headers=parse_header_filters(header or ()),
        name=decode_segment(name),
        start=start,
        start_value=value,
        shared=shared,
        in_flight_max=in_flight_max,
        resume=[inputs.Resume(epoch, sequence, []) for epoch, sequence in places.items()] if on_write else [],
        rewinds=on_write,
    )
    news = asyncio.Event()
    reader = (client_id, decode_segment(name))
    try:
        conversation, attachment = await _attach(door, request, client_id, wanted, news)
    except (ClientIdInUse, SubscriptionInUse):
        former = door.streams(reader) if place else []
        if not former:
            raise
        for stream in former:
            stream.end()
        conversation, attachment = await _attach(door, request, client_id, wanted, news)
    stream = EventStream(
        attachment,
        conversation,
        standing(attachment.places, places) if on_write else {},
        settles=on_write,
        whole=on_write,
        named=not catch_all,
        news=news,
        spellings=door.spellings,
        gaps=forgotten_entries(queue or "", places, {}) if attachment.created else [],
        ended=partial(door.remove_stream, reader),
    )
    door.add_stream(reader, stream)
    return stream


async def _attach(
    door: Door, request: AnyRequest, client_id: str | None, wanted: inputs.Subscribe, news: asyncio.Event
) -> tuple[Conversation, Attachment]:
    address = address_of(request.scope)
    conversation = await open_conversation(door.node, client_id=client_id, protocol=PROTOCOL, address=address)
    try:
        return conversation, await conversation.subscribe(wanted, news.set)
    except BaseException:
        conversation.close()
        raise


HANDLERS = [queue_events, subscription_events]
