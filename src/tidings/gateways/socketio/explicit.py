"""The explicit form: verbs as events of the default namespace.

    socket.emit("publish", {queue, event, payload, headers, id}, confirm => ...)
    socket.emit("subscribe", {queue, event, as, from}, ok => ...)
    socket.on("message", (message, ack) => { ...; ack() })     Socket.IO's own acknowledgement is the ack
    socket.emit("request", {queue, event, payload, timeout_ms}, reply => ...)
    socket.emit("respond", {to, payload}, told => ...)         or ack({reply: ...})
    socket.on("gap", gap => ...)                               settled once it is proved to have arrived

Answers of what was refused have `error`; without a function to answer to, an "error" event tells of it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from tidings import limits
from tidings.broker import effects, inputs
from tidings.calls import Respond
from tidings.errors import InvalidOption, NotFound, Refused, TidingsError
from tidings.gateways.messages import (
    GapEntry,
    MessageEntry,
    ReplyEntry,
    Responded,
    all_positions,
    error_entry,
    forgotten_entries,
    gap_entry,
    message_fields,
    parse_begin,
    places_of,
    ranges_of,
    spell_position,
)
from tidings.gateways.socketio.connection import Acknowledged, Connecting, Emitted, spell_event
from tidings.gateways.socketio.packets import Body, payload_of
from tidings.gateways.socketio.session import Reader, Session
from tidings.gateways.socketio.spelling import (
    Failed,
    Unacknowledged,
    decode_auth,
    draft,
    publish,
    shown_payload,
)
from tidings.model import JSON, parse_header_filters
from tidings.node import Conversation, Delivery, Draft, Request, begin_request

MAIN: Final = "/"
_LISTINGS: Final = ("clients", "queues", "subscriptions")
_VERBS: Final = ("publish", "request", "respond", "subscribe", "extend", "unsubscribe", *_LISTINGS)
_NULL: Final = msgspec.Raw(b"null")


class PublishOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What "publish" takes. `content_type` is JSON unless given, and of bytes application/octet-stream."""

    queue: str
    event: str
    payload: msgspec.Raw = _NULL
    content_type: str | None = None
    id: str | None = None
    key: str | None = None
    headers: dict[str, str] | None = None


class RequestOptions(PublishOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What "request" takes: what "publish" does, and how long the reply may take."""

    timeout_ms: int = limits.REQUEST_TIMEOUT_MS


class RespondOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What "respond" takes: the header `$reply-to` of the message that asks, and what answers it."""

    to: str
    payload: msgspec.Raw = _NULL
    content_type: str | None = None
    headers: dict[str, str] | None = None


class SubscribeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What "subscribe" takes: a filter, a name, where a new subscription starts, and its settings; 0 changes none.

    `position`, or `positions` of several queues, are the last ones that the client got before: where one that is not
    durable goes on.
    """

    queue: str
    event: str = "#"
    headers: list[str] = []
    name: str | None = msgspec.field(default=None, name="as")
    start: str | int = msgspec.field(default="latest", name="from")
    position: str | None = None
    positions: list[str] = []
    shared: bool = False
    in_flight_max: int = 0
    concurrency: int = 1
    ack_timeout_ms: int = 0
    attempts_max: int = 0


class ExtendOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What "extend" takes: the subscription, and the position or positions of messages that are still being handled."""

    subscription: str
    position: str | None = None
    positions: list[str] = []


class UnsubscribeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What "unsubscribe" takes: the subscription, as the answer to "subscribe" named it."""

    subscription: str


class ListingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What listings take: the `after` of the page before."""

    after: str = ""


class Subscribed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The client is attached. `created` says whether the subscription is new, `durable` whether it stays.

    `position` is where one begins that does not stay.
    """

    subscription: str
    durable: bool
    created: bool
    position: str | None = None


class MessageOf(MessageEntry, frozen=True, kw_only=True, omit_defaults=True):
    """A message, and the subscription that it was delivered to."""

    subscription: str


class GapOf(GapEntry, frozen=True, kw_only=True):
    """A gap, and the subscription that it was told to."""

    subscription: str


class Explicit:
    """The default namespace."""

    __slots__ = ("_conversation", "_gaps", "_readers", "_session", "_waiting")

    def __init__(self, session: Session, conversation: Conversation) -> None:
        self._session = session
        self._conversation = conversation
        self._readers: dict[str, Reader] = {}
        self._gaps: dict[Reader, list[GapEntry]] = {}
        """What is told before the first message."""
        self._waiting = Unacknowledged()

    # --- what the client says ---

    async def received(self, emitted: Emitted) -> None:
        """Does what a verb asks for, and answers it."""
        tell = partial(self._tell, emitted.id)
        try:
            if emitted.name == "publish":
                await self._publish(emitted, tell)
                return
            if emitted.name == "request":
                await self._request(emitted, tell)
                return
            if emitted.name == "respond":
                answer: object = await self._respond(emitted)
            elif emitted.name == "subscribe":
                answer = await self._subscribe(_options(emitted, SubscribeOptions))
            elif emitted.name == "extend":
                answer = await self._extend(_options(emitted, ExtendOptions))
            elif emitted.name == "unsubscribe":
                answer = await self._unsubscribe(_options(emitted, UnsubscribeOptions))
            elif emitted.name in _LISTINGS:
                page = await self._conversation.list(emitted.name, _options(emitted, ListingOptions).after)
                answer = {emitted.name: page.entries, "after": page.after}
            else:
                raise InvalidOption(
                    f"{emitted.name!r} is not a verb of the default namespace; there are {', '.join(_VERBS)}."
                    " Events of your own belong into the namespace of a queue, such as /orders"
                )
        except TidingsError as error:
            answer = Failed(error_entry(error))
        tell(answer)

    async def _publish(self, emitted: Emitted, tell: Any) -> None:
        wanted = _options(emitted, PublishOptions)
        message = _draft(wanted, emitted)
        await publish(self._conversation, wanted.queue, message, tell, self._session.durability)

    async def _request(self, emitted: Emitted, tell: Any) -> None:
        wanted = _options(emitted, RequestOptions)
        request = await begin_request(
            self._conversation,
            wanted.queue,
            _draft(wanted, emitted),
            address=self._session.fresh_token(),
            wait_ms=wanted.timeout_ms,
        )
        self._session.run(self._tell_reply(request, tell))

    async def _tell_reply(self, request: Request, tell: Any) -> None:
        try:
            info = await request.reply()
        except TidingsError as error:
            tell(Failed(error_entry(error)))
            return
        value, attachments = shown_payload(info.payload, info.content_type)
        tell(
            ReplyEntry(
                payload=msgspec.Raw(value),
                content_type=msgspec.UNSET if info.content_type == JSON else info.content_type,
                headers=info.headers,
                client_id=info.client_id,
            ),
            attachments,
        )

    async def _respond(self, emitted: Emitted) -> Responded:
        wanted = _options(emitted, RespondOptions)
        message = draft("reply", payload_of(wanted.payload, emitted.attachments), wanted.content_type)
        call = Respond(
            address=wanted.to, payload=message.payload, content_type=message.content_type, headers=wanted.headers
        )
        return Responded(bool(await self._conversation.call(call)))

    async def _subscribe(self, wanted: SubscribeOptions) -> Subscribed:
        reader = Reader(None, self._spell)
        places = places_of(all_positions(wanted.position, wanted.positions))
        if places and (wanted.name is not None or self._conversation.client_id is not None):
            raise InvalidOption("a durable subscription goes on at its cursor; leave position out")
        # Who was there before must not miss what came meanwhile.
        start, value = parse_begin("earliest" if places else str(wanted.start))
        attachment = await self._conversation.subscribe(
            inputs.Subscribe(
                queue=wanted.queue,
                event=wanted.event,
                headers=parse_header_filters(wanted.headers),
                name=wanted.name,
                resume=[inputs.Resume(epoch, sequence, []) for epoch, sequence in places.items()],
                start=start,
                start_value=value,
                shared=wanted.shared,
                in_flight_max=wanted.in_flight_max,
                concurrency=wanted.concurrency,
                ack_timeout_ms=wanted.ack_timeout_ms,
                attempts_max=wanted.attempts_max,
            ),
            wake=partial(self._session.offer, reader),
        )
        if attachment.name in self._readers:  # a shared one lets itself be attached twice, and has one name here
            await attachment.detach()
            raise Refused(f"this client is subscribed to {attachment.name!r} already")
        reader.attachment = attachment
        self._readers[attachment.name] = reader
        begins = dict(attachment.places)
        self._gaps[reader] = forgotten_entries(wanted.queue, places, begins)
        self._session.offer(reader)
        position = spell_position(begins) if begins else None
        return Subscribed(attachment.name, attachment.durable, attachment.created, position)

    async def _extend(self, wanted: ExtendOptions) -> dict[str, str]:
        attachment = self._find(wanted.subscription).attachment
        assert attachment is not None, "it is found by its name, which it has since it is attached"
        await attachment.extend(ranges_of(all_positions(wanted.position, wanted.positions)))
        return {"subscription": wanted.subscription}

    async def _unsubscribe(self, wanted: UnsubscribeOptions) -> dict[str, str]:
        reader = self._find(wanted.subscription)
        del self._readers[wanted.subscription]
        await self._detach(reader)
        return {"subscription": wanted.subscription}

    def _find(self, name: str) -> Reader:
        reader = self._readers.get(name)
        if reader is None:
            raise NotFound(f"this client is not subscribed to {name!r}; the answer to subscribe has the name")
        return reader

    def acknowledged(self, acknowledged: Acknowledged) -> None:
        """Settles a message."""
        self._waiting.settle(self._conversation, acknowledged, self._session.settle_soon)

    # --- what the client is told ---

    def _tell(self, id: int | None, answer: object, attachments: Sequence[bytes] = ()) -> None:
        if id is not None:
            self._session.connection.answer(MAIN, id, answer, attachments)
        elif isinstance(answer, Failed):
            self._emit("error", answer.error)
        self._session.flush()

    def _emit(self, name: str, value: object) -> None:
        self._session.connection.emit(MAIN, name, [msgspec.json.encode(value)])

    def _spell(self, reader: Reader) -> bool:
        attachment = reader.attachment
        if attachment is None:
            return False
        for gap in self._gaps.pop(reader, ()):
            self._emit("gap", GapOf(subscription=attachment.name, **msgspec.structs.asdict(gap)))
        item = attachment.take()
        if item is None:
            return False
        if isinstance(item, effects.Gap):
            self._emit("gap", GapOf(subscription=attachment.name, **msgspec.structs.asdict(gap_entry(item))))
            self._session.unproven(attachment, item.epoch, item.first_sequence, item.last_sequence)
            return True
        body = self._session.gateway.explicit_spellings.of(item, attachment.name)
        self._session.connection.emit_body(MAIN, body, id=self._waiting.add(attachment, item))
        return True

    def failed(self, error: TidingsError) -> None:
        """Tells of an error that belongs to no request."""
        self._emit("error", error_entry(error))

    async def close(self) -> None:
        """Detaches from all subscriptions."""
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            await self._detach(reader)

    async def _detach(self, reader: Reader) -> None:
        self._session.withdraw(reader)
        self._gaps.pop(reader, None)
        if reader.attachment:
            self._waiting.forget(reader.attachment)
            await reader.attachment.detach()


def spell_explicit(delivery: Delivery, subscription: str) -> Body:
    """Returns a message as an event, with the name of the subscription that it was delivered to."""
    value, attachments = shown_payload(delivery.payload, delivery.content_type)
    entry = MessageOf(
        **message_fields(delivery),
        payload=msgspec.Raw(value),
        content_type=msgspec.UNSET if delivery.content_type == JSON else delivery.content_type,
        subscription=subscription,
    )
    return spell_event("message", [msgspec.json.encode(entry)], attachments)


async def open_explicit(session: Session, asked: Connecting, sid: str) -> Explicit:
    """Lets a client into the default namespace.

    Raises:
        TidingsError: why not.
    """
    auth = decode_auth(asked.auth)
    conversation = await session.converse(auth.client_id, take_over=auth.take_over, token=auth.token)
    # Another pid each time: the client has to subscribe again, so nothing is recovered. But the session is its own.
    session.connection.accept(MAIN, sid=sid, pid=f"{conversation.token}.{sid}")
    return Explicit(session, conversation)


def _draft(wanted: PublishOptions, emitted: Emitted) -> Draft:
    payload = payload_of(wanted.payload, emitted.attachments)
    return draft(wanted.event, payload, wanted.content_type, id=wanted.id, key=wanted.key, headers=wanted.headers)


def _options(emitted: Emitted, kind: Any) -> Any:
    if len(emitted.arguments) > 1:
        raise InvalidOption(f"{emitted.name} takes one object, and was given {len(emitted.arguments)} arguments")
    try:
        return msgspec.json.decode(emitted.arguments[0] if emitted.arguments else b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise InvalidOption(f"{emitted.name}: {error}") from None
