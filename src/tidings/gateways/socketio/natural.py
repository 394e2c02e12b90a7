"""The natural form: the namespace is the queue, and the event is the event.

    io("http://localhost:7480/orders", {auth: {clientId: "billing"}})
    socket.on("created", payload => ...)             what is published, also what was while it was away
    socket.emit("created", {id: 7}, confirm => ...)  publishes

Settled is (`auth.ack`):

    "auto"      what is proved to have arrived, by a pong or by the next GET
    "manual"    what the client acknowledges: the last argument of a handler is a function

*Recovery.* With "auto" the last argument of an event is its offset, which the standard client hands back, with its pid,
when it returns. Both mean the same after any restart:

    offset  =  stretch *("," stretch)           one for each of `auth.events`, in their order
    stretch =  epoch "-" first "-" last         all of that reading of the queue that was sent for the first time
    pid     =  token "." offset                 token of the conversation; where an ephemeral subscription began
"""

import re
from functools import partial
from typing import Final, NamedTuple

import msgspec

from tidings import limits
from tidings.broker import effects, inputs
from tidings.errors import InvalidOption, InvalidPayload, TidingsError
from tidings.gateways.messages import ConfirmEntry, error_entry, gap_entry, parse_begin
from tidings.gateways.socketio.connection import Acknowledged, Connecting, Emitted, spell_event
from tidings.gateways.socketio.packets import Body, payload_of
from tidings.gateways.socketio.session import Reader, Session
from tidings.gateways.socketio.spelling import (
    Auth,
    Failed,
    Unacknowledged,
    decode_auth,
    draft,
    publish,
    shown_payload,
)
from tidings.model import check_name, parse_header_filters
from tidings.node import Conversation, Delivery

_STRETCH: Final = re.compile(r"([0-9a-f]{1,13})-([0-9]{1,16})-([0-9]{1,16})")
_NULL: Final = msgspec.Raw(b"null")


class Stretch(NamedTuple):
    """What a client has of one reading of a queue; with `last` below `first` nothing yet, and `first` comes next."""

    reading: int
    first: int
    last: int

    def spell(self) -> str:
        """Returns it as a piece of an offset."""
        return f"{self.reading:x}-{self.first}-{self.last}"

    def grown(self, reading: int, sequence: int) -> "Stretch":
        """Returns it with a message that was sent for the first time."""
        if reading != self.reading:
            return Stretch(reading, sequence, sequence)
        return Stretch(reading, self.first, max(self.last, sequence))


NOTHING: Final = Stretch(0, 1, 0)


def parse_offset(text: str) -> list[Stretch]:
    """Returns the stretches of an offset; none of one that is not ours, as of a client that was elsewhere before."""
    matches = [_STRETCH.fullmatch(piece) for piece in text.split(",", limits.SOCKETIO_EVENTS_MAX)]
    return [Stretch(int(match[1], 16), int(match[2]), int(match[3])) for match in matches if match]


class Natural:
    """One queue, as a namespace. Made with `open_natural`."""

    __slots__ = ("_conversation", "_entered", "_name", "_readers", "_recovery", "_session", "_stretches", "_waiting")

    def __init__(self, session: Session, conversation: Conversation, name: str, auth: Auth) -> None:
        self._session = session
        self._conversation = conversation
        self._name = name
        self._readers: list[Reader] = []
        self._stretches: list[Stretch] = []
        self._recovery = auth.recovery
        self._waiting = Unacknowledged() if auth.ack == "manual" else None
        self._entered = False

    # --- entering ---

    async def subscribe(self, event: str, auth: Auth, came: Stretch | None) -> bool:
        """Attaches to the subscription of an event; returns whether it goes on where the client was."""
        reader = Reader(None, self._spell)
        start, value = parse_begin(str(auth.start))
        resume = [] if came is None else [inputs.Resume(came.reading, came.last, [(came.first, came.last)])]
        attachment = reader.attachment = await self._conversation.subscribe(
            inputs.Subscribe(
                queue=self._name[1:],
                event=event,
                headers=parse_header_filters(auth.headers),
                start=start,
                start_value=value,
                resume=resume,
            ),
            wake=partial(self._offer, reader),
        )
        self._readers.append(reader)
        if attachment.durable:
            self._stretches.append(NOTHING)
            return not attachment.created
        [(reading, position)] = attachment.places
        self._stretches.append(Stretch(reading, position + 1, position))
        return came is not None and (reading, position) == (came.reading, came.last)

    def enter(self, *, sid: str, pid: str | None) -> None:
        """Lets the client in, and deliveries out; `pid` is what it came with, if it goes on where it was."""
        if pid is None:
            pid = f"{self._conversation.token}.{self._offset()}"
        self._session.connection.accept(self._name, sid=sid, pid=pid)
        self._entered = True
        for reader in self._readers:
            self._session.offer(reader)

    def _offset(self) -> str:
        return ",".join([stretch.spell() for stretch in self._stretches])

    # --- what the client says ---

    async def received(self, emitted: Emitted) -> None:
        """Publishes."""
        tell = partial(self._tell, emitted.name, emitted.id)
        try:
            message = draft(emitted.name, _payload(emitted))
        except TidingsError as error:
            tell(Failed(error_entry(error)))
            return
        durability = self._session.durability
        await publish(self._conversation, self._name[1:], message, tell, durability)

    def acknowledged(self, acknowledged: Acknowledged) -> None:
        """Settles a message."""
        if self._waiting:
            self._waiting.settle(self._conversation, acknowledged, self._session.settle_soon)

    def _tell(self, event: str, id: int | None, answer: ConfirmEntry | Failed) -> None:
        connection = self._session.connection
        if id is not None:
            connection.answer(self._name, id, answer)
        elif isinstance(answer, Failed):
            told = msgspec.structs.asdict(answer.error) | {"event": event}
            connection.emit(self._name, "$error", [msgspec.json.encode(told)])
        self._session.flush()

    # --- what the client is told ---

    def _offer(self, reader: Reader) -> None:
        if self._entered:
            self._session.offer(reader)

    def _spell(self, reader: Reader) -> bool:
        attachment = reader.attachment
        item = attachment.take() if attachment else None
        if attachment is None or item is None:
            return False
        connection = self._session.connection
        if isinstance(item, effects.Gap):
            connection.emit(self._name, "$gap", [msgspec.json.encode(gap_entry(item))])
            self._session.unproven(attachment, item.epoch, item.first_sequence, item.last_sequence)
            return True
        spellings = self._session.gateway.natural_spellings
        if self._waiting is not None:
            number = self._waiting.add(attachment, item)
            connection.emit_body(self._name, spellings.of(item), id=number)
            return True
        offset = ""
        if self._recovery:
            if item.attempt == 1:
                place = self._readers.index(reader)
                self._stretches[place] = self._stretches[place].grown(item.epoch, item.sequence)
            offset = self._offset()
        connection.emit_body(self._name, spellings.of(item, offset))
        self._session.unproven(attachment, item.epoch, item.sequence, item.sequence)
        return True

    def failed(self, error: TidingsError) -> None:
        """Tells of an error that belongs to no request."""
        self._session.connection.emit(self._name, "$error", [msgspec.json.encode(error_entry(error))])

    async def close(self) -> None:
        """Detaches from the queue; what was not settled comes again, after any time."""
        self._entered = False
        for reader in self._readers:
            self._session.withdraw(reader)
            if reader.attachment:
                await reader.attachment.detach()


def spell_natural(delivery: Delivery, offset: str) -> Body:
    """Returns a message as an event, with the offset as its last argument unless it is empty."""
    value, attachments = shown_payload(delivery.payload, delivery.content_type)
    arguments = [value, b'"%b"' % offset.encode()] if offset else [value]
    return spell_event(delivery.event, arguments, attachments)


async def open_natural(session: Session, asked: Connecting, sid: str) -> Natural:
    """Lets a client into the namespace of a queue.

    Raises:
        TidingsError: why not.
    """
    auth = decode_auth(asked.auth)
    check_name(asked.namespace[1:], "queue")
    events = ["#"] if auth.events is None else auth.events
    if len(events) > limits.SOCKETIO_EVENTS_MAX:
        raise InvalidOption(
            f"auth.events lists {len(events)}; it can be {limits.SOCKETIO_EVENTS_MAX}: use patterns, such as 'file.*'"
        )
    conversation = await session.converse(auth.client_id, take_over=auth.take_over, token=auth.token)
    came = parse_offset(auth.offset or (auth.pid or "").partition(".")[2])
    known = auth.pid is not None and auth.token == conversation.token and len(came) == len(events)
    namespace = Natural(session, conversation, asked.namespace, auth)
    try:
        goes_on = [
            await namespace.subscribe(event, auth, stretch if known else None)
            for event, stretch in zip(events, came if known else [NOTHING] * len(events), strict=True)
        ]
    except TidingsError:
        await namespace.close()
        raise
    namespace.enter(sid=sid, pid=auth.pid if known and all(goes_on) else None)
    return namespace


def _payload(emitted: Emitted) -> bytes | msgspec.Raw:
    if len(emitted.arguments) > 1:
        raise InvalidPayload(
            f"event {emitted.name!r} has {len(emitted.arguments)} arguments; a message has one payload: put them into"
            " an array or an object"
        )
    if not emitted.arguments:
        return _NULL
    return payload_of(emitted.arguments[0], emitted.attachments)
