"""Messages, confirms, gaps, errors and positions as JSON shows them: the same at every web door and in the shell.

A payload is shown by its content type:

    JSON                     `payload`, as it was published, number by number; not decoded
    text/*, and UTF-8        `payload`, a string
    anything else            `payload_base64`

`content_type` stands beside it unless it is application/json. What only claims to be JSON or text is anything else.

A *position* tells how far a reader has come, in one queue or several:

    position  =  place *("." place)
    place     =  epoch "-" sequence                 hexadecimal, and decimal

The epoch is that of the reader's deliveries (`model.Reading`), so that a position from before a move, or from another
life of the queue, is not taken for another one. Clients hand positions back as they got them, and look into none.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from tidings import limits
from tidings.errors import InvalidOption, InvalidPayload, TidingsError
from tidings.model import BYTES, ELSEWHERE, JSON, Reading, ReplyInfo, epoch_of

if TYPE_CHECKING:  # the command line uses this module too, and needs no node
    from tidings.broker.effects import Confirm, Gap
    from tidings.node import Delivery

_JSON_CHECK: Final = msgspec.json.Decoder(msgspec.Raw)
_PLACE: Final = re.compile(r"([0-9a-f]{1,13})-([0-9]{1,16})")


class MessageEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One delivery of a message.

    `time` is when it was published, in UTC. `position` names this delivery, and is what acks it. `attempt` counts from
    1; `redriven` says that it comes from the dead letters.
    """

    queue: str
    event: str
    sequence: int
    epoch: int
    position: str
    time: str
    attempt: int
    payload: msgspec.Raw | str | UnsetType = UNSET
    payload_base64: str | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    id: str | None = None
    key: str | None = None
    headers: dict[str, str] = {}
    redriven: bool = False


class GapEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that will not come, from `first_sequence` to `last_sequence`, told in their place.

    A durable subscription is told again when it is attached again, until `position` was acked. Where nobody knows any
    more how many there were, `last_sequence` and `count` are null.
    """

    queue: str
    epoch: int
    first_sequence: int
    last_sequence: int | None
    count: int | None
    position: str
    reason: str


class ConfirmEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message is stored as safely as `durability` says ("disk" is fsynced), at this place of its queue.

    `subscriptions` counts those whose filters match, connected or away. `duplicate_of` is the sequence of a message
    that the queue had stored before under the same id; then this one was not stored again.
    """

    queue: str
    sequence: int
    epoch: int
    durability: str
    subscriptions: int
    duplicate_of: int | None = None


class ReplyEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What answers a request, and the client that gave it; the payload is shown as that of a message."""

    payload: msgspec.Raw | str | UnsetType = UNSET
    payload_base64: str | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    headers: dict[str, str] = {}
    client_id: str | None = None


class Responded(msgspec.Struct, frozen=True):
    """The reply was sent; `awaited` says whether somebody still waited for it."""

    awaited: bool


class ErrorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An error of the registry. `retryable` says whether the same may succeed later."""

    code: str
    text: str
    retryable: bool


def message_entry(delivery: "Delivery") -> MessageEntry:
    """Returns a delivery as JSON shows it."""
    return MessageEntry(**message_fields(delivery), **payload_entry(delivery.payload, delivery.content_type))


def message_fields(delivery: "Delivery") -> dict[str, Any]:
    """Returns what stands beside the payload, as fields of `MessageEntry`."""
    return {
        "queue": delivery.queue,
        "event": delivery.event,
        "sequence": delivery.sequence,
        "epoch": epoch_of(delivery.epoch),
        "position": spell_position({delivery.epoch: delivery.sequence}),
        "time": iso_time(delivery.time_ms),
        "attempt": delivery.attempt,
        "id": delivery.id,
        "key": delivery.key,
        "headers": delivery.headers or {},
        "redriven": delivery.redriven,
    }


def gap_entry(gap: "Gap") -> GapEntry:
    """Returns a gap as JSON shows it."""
    return GapEntry(
        queue=gap.queue,
        epoch=epoch_of(gap.epoch),
        first_sequence=gap.first_sequence,
        last_sequence=gap.last_sequence,
        count=gap.last_sequence - gap.first_sequence + 1,
        position=spell_position({gap.epoch: gap.last_sequence}),
        reason=gap.reason,
    )


def confirm_entry(queue: str, confirm: "Confirm", durability: str) -> ConfirmEntry:
    """Returns the confirm of a single message."""
    duplicate_of = confirm.duplicates[0][1] if confirm.duplicates else None
    return ConfirmEntry(
        queue=queue,
        sequence=confirm.first_sequence if duplicate_of is None else duplicate_of,
        epoch=confirm.epoch,
        durability=durability,
        subscriptions=confirm.subscriptions[0],
        duplicate_of=duplicate_of,
    )


def reply_entry(info: ReplyInfo) -> ReplyEntry:
    """Returns a reply as JSON shows it."""
    return ReplyEntry(headers=info.headers, client_id=info.client_id, **payload_entry(info.payload, info.content_type))


def error_entry(error: TidingsError) -> ErrorEntry:
    """Returns an error as JSON shows it."""
    return ErrorEntry(code=error.code, text=error.text, retryable=error.retryable)


def payload_entry(payload: bytes, content_type: str) -> dict[str, Any]:
    """Returns a payload as fields of JSON: `payload` or `payload_base64`, and `content_type` unless it is plain JSON.

    JSON is on one line.
    """
    value = payload_value(payload, content_type)
    if value is None:
        return {"payload_base64": base64.b64encode(payload).decode(), "content_type": content_type}
    return {"payload": value} if content_type == JSON else {"payload": value, "content_type": content_type}


def payload_value(payload: bytes, content_type: str) -> msgspec.Raw | str | None:
    """Returns a payload as a value of JSON, on one line; None for one that is bytes."""
    kind = content_type.partition(";")[0].strip().lower()
    if (kind == JSON or kind.endswith("+json")) and is_json(payload):
        # Line breaks can only stand between its tokens.
        return msgspec.Raw(payload.replace(b"\n", b" ").replace(b"\r", b" "))
    if kind.startswith("text/"):
        try:
            return payload.decode()
        except UnicodeDecodeError:
            pass  # of another encoding: as bytes, unchanged
    return None


def new_payload(
    payload: msgspec.Raw | UnsetType, payload_base64: str | None, content_type: str | None
) -> tuple[bytes, str]:
    """Returns the payload of a message that is to be published, spelled as `payload_entry` does, and its content type.

    Raises:
        InvalidPayload: there is none, or it is not what its content type says.
    """
    if payload_base64 is not None:
        if payload is not UNSET:
            raise InvalidPayload("there is payload and payload_base64; a message has one of them")
        try:
            return base64.b64decode(payload_base64, validate=True), content_type or BYTES
        except ValueError as error:
            raise InvalidPayload(f"payload_base64 is not Base64: {error}") from None
    if payload is UNSET:
        raise InvalidPayload("payload is missing; null is one")
    raw = bytes(payload)
    if content_type is not None and content_type.startswith("text/"):
        try:
            return msgspec.json.decode(raw, type=str).encode(), content_type
        except (msgspec.ValidationError, UnicodeError):
            raise InvalidPayload(f"a payload of content type {content_type} is a string") from None
    return raw, content_type or JSON


def header_content_type(content_type: str) -> str:
    """Returns a content type as a header may have it: somebody may have published one that would be several."""
    return content_type.strip() if content_type.isascii() and content_type.isprintable() else BYTES


def is_json(data: bytes) -> bool:
    """Whether bytes are JSON. It costs half of decoding them."""
    try:
        _JSON_CHECK.decode(data)
        return data.isascii() or bool(data.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # somebody published bytes as JSON; they are shown, not trusted


def parse_begin(text: str) -> tuple[str, int]:
    """Returns where a new subscription is to begin, as `parse_start`, or "last": the last message of each event.

    Raises:
        InvalidOption: it is none of these.
    """
    return ("last", 0) if text == "last" else parse_start(text, "from", "last, ")


def parse_start(text: str, option: str = "from", also: str = "") -> tuple[str, int]:
    """Returns a place in a queue, as the broker knows it, and its sequence or UTC milliseconds.

    It is "earliest", "latest", a sequence, or a time in ISO 8601 with its offset; the error says what else may be
    given (`also`).

    Raises:
        InvalidOption: it is none of these.
    """
    if text in ("earliest", "latest"):
        return text, 0
    if text.isascii() and text.isdigit() and len(text) < 17 and int(text) > 0:
        return "sequence", int(text)
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return "time", max(0, int(time.timestamp() * 1000))
    except (ValueError, OverflowError):
        pass  # told below
    raise InvalidOption(
        f"{option} {text[:80]!r}: write earliest, latest, {also}a sequence such as 42, or a time with its offset such"
        " as 2026-01-31T08:00:00Z"
    )


def iso_time(time_ms: int) -> str:
    """Returns UTC milliseconds since 1970 as ISO 8601, such as 2026-01-31T08:00:00.000Z."""
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def spell_position(places: Mapping[Reading, int]) -> str:
    """Returns the position of a reader that has all up to these sequences."""
    return ".".join([f"{epoch:x}-{sequence}" for epoch, sequence in places.items()])


def parse_position(text: str, queues_max: int = limits.POSITION_QUEUES_MAX) -> dict[Reading, int]:
    """Returns how far a reader has come in each queue, by the epoch of its deliveries.

    Raises:
        InvalidOption: it is not a position.
    """
    pieces = text.split(".", queues_max - 1)
    matches = [_PLACE.fullmatch(piece) for piece in pieces]
    if not all(matches):
        shown = text if len(text) <= 80 else f"{text[:80]}..."
        raise InvalidOption(
            f"{shown!r} is not a position; hand back one that a message came with, or leave it out to begin anew"
        )
    return {int(match[1], 16): int(match[2]) for match in matches if match}


def places_of(positions: Iterable[str]) -> dict[Reading, int]:
    """Returns how far a reader has come that hands back several positions: in each queue the last one counts.

    Raises:
        InvalidOption: one of them is not a position.
    """
    places: dict[Reading, int] = {}
    for text in positions:
        for epoch, sequence in parse_position(text, limits.RESUME_QUEUES_MAX).items():
            places[epoch] = max(sequence, places.get(epoch, 0))
    return places


def standing(places: Iterable[tuple[Reading, int]], named: Iterable[Reading]) -> dict[Reading, int]:
    """Returns where a reader goes on, in as many queues as a position holds: in those that it named above all."""
    known = dict(places)
    for reading in named:
        if reading in known and reading != ELSEWHERE:
            known[reading] = known.pop(reading)
    return dict([*known.items()][-limits.POSITION_QUEUES_MAX :])


def forgotten_entries(queue: str, places: Mapping[Reading, int], begins: Iterable[Reading]) -> list[GapEntry]:
    """Returns a gap for each place of a position that nobody remembers any more: the reader `begins` elsewhere."""
    known = {ELSEWHERE, *(epoch_of(epoch) for epoch in begins)}
    return [
        GapEntry(
            queue=queue,
            epoch=epoch_of(epoch),
            first_sequence=sequence + 1,
            last_sequence=None,
            count=None,
            position=spell_position({epoch: sequence}),
            reason="queue or subscription deleted, or the server began anew with an empty store",
        )
        for epoch, sequence in places.items()
        if epoch_of(epoch) not in known
    ]


def all_positions(position: str | None, positions: Iterable[str]) -> list[str]:
    """Returns all that are named, one by itself or several."""
    return [*positions, *([] if position is None else [position])]


def ranges_of(positions: Sequence[str]) -> list[tuple[Reading, int, int]]:
    """Returns what an ack of single deliveries, named by their positions, covers: (epoch, first, last), inclusive.

    Raises:
        InvalidOption: one of them is not a position, or there is none.
    """
    if not positions:
        raise InvalidOption("say which messages: by the position of one, or positions of several")
    return [(epoch, sequence, sequence) for text in positions for epoch, sequence in parse_position(text).items()]
