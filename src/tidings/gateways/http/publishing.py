"""Publishing over HTTP: one message, the body as it is; many in one body; or CloudEvents in all three modes.

    POST /queues/{queue}/events/{event}         the body is the payload, the rest is in headers
    POST /queues/{queue}/events/{event}?batch   a JSON array, or a line of NDJSON each: payloads
    POST /queues/{queue}/events                 the same of whole messages, which name their events themselves

To all of them a CloudEvent may be sent instead; it is known by its content type, or by its `ce-` headers.
"""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, HeaderParameter, QueryParameter

from tidings import calls, limits
from tidings.broker import effects
from tidings.errors import InvalidOption, InvalidPayload, TidingsError
from tidings.gateways import cloudevents
from tidings.gateways.http.bodies import FORM, AnyRequest, media_type
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.http.reference import takes
from tidings.gateways.messages import ConfirmEntry, confirm_entry, header_content_type, is_json, new_payload
from tidings.model import BYTES, JSON, ScheduledInfo
from tidings.node import Draft, begin_request
from tidings.node.drafts import batches

NDJSON: Final = "application/x-ndjson"
_NDJSON_TYPES: Final = frozenset((NDJSON, "application/ndjson", "application/jsonl", "application/json-lines"))
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00Z")

MessageId = Annotated[str | None, HeaderParameter(name="Tidings-Id", description="Stored once in 10 minutes.")]
Key = Annotated[str | None, HeaderParameter(name="Tidings-Key", description="What the message is about.")]
Delay = Annotated[str | None, HeaderParameter(name="Tidings-Delay", description="Seconds until it is published.")]
At = Annotated[str | None, HeaderParameter(name="Tidings-At", description="When: ISO 8601, with its offset.")]
Every = Annotated[str | None, HeaderParameter(name="Tidings-Every", description="Seconds after which it comes again.")]
Ttl = Annotated[str | None, HeaderParameter(name="Tidings-Ttl", description="Seconds in which it is of use.")]
Reply = Annotated[str | None, HeaderParameter(name="Tidings-Reply", description="Seconds to wait for a reply.")]
IsBatch = Annotated[str | None, QueryParameter(name="batch", description="The body is many payloads.")]


class BatchConfirmed(msgspec.Struct, frozen=True, kw_only=True):
    """All messages of a batch are stored: `sequences` has the place of each, in their order.

    `duplicates` are the places in the batch, from 0, of messages that the queue had stored before under the same id.
    """

    queue: str
    epoch: int | None
    durability: str
    count: int
    sequences: list[int]
    duplicates: list[int] = []


class NewMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message of a batch, spelled as deliveries are. `payload` is JSON, or a string of a `content_type` text/*."""

    event: str
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload_base64: str | None = None
    content_type: str | None = None
    id: str | None = None
    key: str | None = None
    headers: dict[str, str] | None = None
    ttl_ms: int = 0


_NEW: Final = msgspec.json.Decoder(NewMessage)
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_EVENT_BODIES: Final[dict[str, dict[str, Any]]] = {
    cloudevents.STRUCTURED: {"type": "object", "description": "A CloudEvent."},
    cloudevents.BATCH: {"type": "array", "items": {"type": "object"}, "description": "CloudEvents."},
}


@post(
    "/queues/{queue:str}/events/{event:str}",
    status_code=201,
    responses={
        200: ResponseSpec(bytes, description="The reply, as it is.", media_type="*/*", generate_examples=False),
        202: ResponseSpec(ScheduledInfo, description="It is scheduled.", generate_examples=False),
    },
    tags=["publish"],
    summary="Publish a message, or with ?batch many",
    opt=takes({"*/*": {"description": "The payload as it is; with ?batch a JSON array, or NDJSON."}} | _EVENT_BODIES),
)
async def publish(
    request: AnyRequest,
    door: NamedDependency[Door],
    queue: FromPath[str],
    event: FromPath[str],
    message_id: MessageId = None,
    key: Key = None,
    delay: Delay = None,
    at: At = None,
    every: Every = None,
    ttl: Ttl = None,
    reply: Reply = None,
    batch: IsBatch = None,
) -> Response[ConfirmEntry | BatchConfirmed]:
    """Stores the body, as it is, as a message; answers once that is durable, or with `Tidings-Reply` with the reply.

    Headers `Tidings-Header-NAME: VALUE` become the message's headers, with NAME in lower case. With `Tidings-Delay`,
    `Tidings-At` or `Tidings-Every` it is scheduled (202): DELETE on /schedules/HANDLE takes it back.
    """
    queue, event = decode_segment(queue), decode_segment(event)
    one = (message_id, key, delay, at, every, ttl, reply)
    body = await request.body()
    kind = media_type(request)
    if kind == cloudevents.BATCH or _is_true(batch):
        if any(each is not None for each in one) or message_headers(request):
            raise InvalidOption("Tidings- headers describe one message; a batch has many: say it in each of them")
        if kind == cloudevents.BATCH:
            return await _publish_many(door, queue, cloudevents.parse_batch(body, event))
        return await _publish_many(door, queue, [Draft(event, payload) for payload in _entries(kind, body)])
    draft = _draft(request, kind, body, event)
    draft = draft._replace(id=message_id or draft.id, key=key or draft.key, ttl_ms=_ttl_ms(ttl))
    if (delay, at, every) != (None, None, None):
        if reply is not None:
            raise InvalidOption("Tidings-Reply is for a message that is published now; leave delay, at and every out")
        return await _schedule(door, queue, draft, delay, at, every)
    if reply is not None:
        return await _request(door, queue, draft, reply)
    [confirm] = await (await door.clerk()).publish(queue, [draft])
    return Response(confirm_entry(queue, confirm, door.node.store.durability))


@post(
    "/queues/{queue:str}/events",
    status_code=201,
    tags=["publish"],
    summary="Publish many messages, each naming its event",
    opt=takes(
        {
            JSON: {"type": "array", "items": {"$ref": "#/components/schemas/NewMessage"}},
            NDJSON: {"description": "A message a line."},
            **_EVENT_BODIES,
        },
        NewMessage,
    ),
)
async def publish_messages(
    request: AnyRequest, door: NamedDependency[Door], queue: FromPath[str]
) -> Response[ConfirmEntry | BatchConfirmed]:
    """Stores messages of several events, or CloudEvents, whose types are their events; answers once all are durable.

    They are stored in batches of up to 256 KiB, each of them wholly or not at all. If one is refused, those before it
    may be stored, and the answer says how many: give messages ids, and send all of it again.
    """
    queue = decode_segment(queue)
    body = await request.body()
    kind = media_type(request)
    if kind == cloudevents.BATCH:
        return await _publish_many(door, queue, cloudevents.parse_batch(body, None))
    if kind == cloudevents.STRUCTURED or cloudevents.is_binary_event(request.headers):
        is_binary = kind != cloudevents.STRUCTURED
        draft = (
            cloudevents.parse_binary(request.headers, body, None)
            if is_binary
            else cloudevents.parse_structured(body, None)
        )
        [confirm] = await (await door.clerk()).publish(queue, [draft])
        return Response(confirm_entry(queue, confirm, door.node.store.durability))
    drafts = [_new_message(entry, place) for place, entry in enumerate(_entries(kind, body))]
    return await _publish_many(door, queue, drafts)


# --- what was sent ---


def message_headers(request: AnyRequest) -> dict[str, str] | None:
    """Returns a message's own headers."""
    prefix = "tidings-header-"
    found = {name[len(prefix) :]: value for name, value in request.headers.items() if name.startswith(prefix)}
    return found or None


def _is_true(flag: str | None) -> bool:
    if flag is None or flag.lower() in ("false", "0"):
        return False
    if flag.lower() not in ("", "true", "1"):
        raise InvalidOption(f"batch={flag}: write ?batch or ?batch=true")
    return True


def _draft(request: AnyRequest, kind: str, body: bytes, event: str) -> Draft:
    if kind == cloudevents.STRUCTURED:
        draft = cloudevents.parse_structured(body, event)
    elif cloudevents.is_binary_event(request.headers):
        draft = cloudevents.parse_binary(request.headers, body, event)
    else:
        draft = Draft(event, body, content_type_of(request, body))
    more = message_headers(request)
    return draft._replace(headers={**(draft.headers or {}), **more}) if more else draft


def content_type_of(request: AnyRequest, body: bytes) -> str:
    """Returns the content type that was given. `curl -d` says that all it sends is a form, also JSON."""
    if media_type(request) in ("", FORM) and is_json(body):
        return JSON
    return request.headers.get("content-type") or BYTES


def _entries(kind: str, body: bytes) -> list[bytes]:
    """Returns the entries of a JSON array or of NDJSON, each of them valid JSON."""
    if kind in _NDJSON_TYPES:
        lines = [(number, line.strip()) for number, line in enumerate(body.split(b"\n"), 1)]
        for number, line in lines:
            if line and not is_json(line):
                raise InvalidPayload(f"line {number} is not JSON; NDJSON has a value on each line")
        return [line for _, line in lines if line]
    if kind not in ("", JSON, FORM) and not kind.endswith("+json"):
        raise InvalidPayload(f"a batch is {JSON} (an array) or {NDJSON}, not {kind}")
    try:
        body.decode()  # msgspec looks into no text that it does not decode
        return [bytes(entry) for entry in _ARRAY.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPayload(f"a batch is a JSON array in UTF-8, or NDJSON of type {NDJSON}: {error}") from None


def _new_message(entry: bytes, place: int) -> Draft:
    try:
        new = _NEW.decode(entry)
        payload, content_type = new_payload(new.payload, new.payload_base64, new.content_type)
    except (msgspec.MsgspecError, RecursionError, InvalidPayload) as error:
        raise InvalidPayload(f"message {place} of the batch: {error}") from None
    return Draft(new.event, payload, content_type, new.id, new.key, new.headers, new.ttl_ms)


def _seconds(text: str | None, what: str) -> int | None:
    """Returns a header's seconds in milliseconds."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,3})?", text):
        raise InvalidOption(f"{what}: {text}: write seconds, such as 90 or 0.5")
    return round(float(text) * 1000)


def _ttl_ms(text: str | None) -> int:
    ttl_ms = _seconds(text, "Tidings-Ttl")
    if ttl_ms == 0:
        raise InvalidOption("Tidings-Ttl: 0: a message that is of use for no time cannot be delivered")
    return ttl_ms or 0


def _time_ms(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ValueError
        return (time - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise InvalidOption(f"Tidings-At: {text}: write a time with its offset, such as 2026-01-31T08:00:00Z") from None


# --- what is done ---


async def _publish_many(door: Door, queue: str, drafts: list[Draft]) -> Response[Any]:
    durability = door.node.store.durability
    confirms = await _confirms(door, queue, drafts)
    sequences: list[int] = []
    duplicates: list[int] = []
    for count, confirm in confirms:
        known = dict(confirm.duplicates)
        sequence = confirm.first_sequence
        for place in range(count):
            if place in known:
                duplicates.append(len(sequences))
                sequences.append(known[place])
            else:
                sequences.append(sequence)
                sequence += 1
    return Response(
        BatchConfirmed(
            queue=queue,
            epoch=confirms[0][1].epoch if confirms else None,
            durability=durability,
            count=len(sequences),
            sequences=sequences,
            duplicates=duplicates,
        )
    )


async def _confirms(door: Door, queue: str, drafts: list[Draft]) -> list[tuple[int, effects.Confirm]]:
    """Publishes; returns the confirm of each batch that they became, and how many messages that had."""
    clerk = await door.clerk()
    futures = [(batch.count, await clerk.publish_batch(queue, batch)) for batch in batches(drafts)]
    confirms: list[tuple[int, effects.Confirm]] = []
    refused: TidingsError | None = None
    for count, future in futures:
        try:
            confirms.append((count, await future))
        except TidingsError as error:
            refused = refused or error
    if refused:
        stored = sum(count for count, _ in confirms)
        if stored:
            raise type(refused)(f"{refused.text} ({stored} of the {len(drafts)} messages were stored)")
        raise refused
    return confirms


async def _request(door: Door, queue: str, draft: Draft, reply: str) -> Response[Any]:
    wait_ms = _seconds(reply, "Tidings-Reply") or 0
    if not 1 <= wait_ms <= limits.PULL_WAIT_MS_MAX:
        raise InvalidOption(f"Tidings-Reply: {reply}: write seconds, up to {limits.PULL_WAIT_MS_MAX // 1000}")
    address = door.node.fresh_token()
    request = await begin_request(await door.clerk(), queue, draft, address=address, wait_ms=wait_ms)
    info = await request.reply()
    # As a header: to a media type text/* the framework would add a character set.
    return Response(info.payload, status_code=200, headers={"content-type": header_content_type(info.content_type)})


async def _schedule(
    door: Door, queue: str, draft: Draft, delay: str | None, at: str | None, every: str | None
) -> Response[Any]:
    call = calls.Schedule(
        queue=queue,
        event=draft.event,
        payload=draft.payload,
        content_type=draft.content_type,
        id=draft.id,
        key=draft.key,
        headers=draft.headers,
        at_ms=_time_ms(at),
        delay_ms=_seconds(delay, "Tidings-Delay"),
        every_ms=_seconds(every, "Tidings-Every"),
        ttl_ms=draft.ttl_ms or None,
    )
    scheduled = await (await door.clerk()).call(call)
    assert isinstance(scheduled, ScheduledInfo)
    return Response(scheduled, status_code=202, headers={"Location": f"/schedules/{scheduled.handle}"})


HANDLERS = [publish, publish_messages]
