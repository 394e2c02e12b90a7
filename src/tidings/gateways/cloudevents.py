"""CloudEvents 1.0: messages of other systems as ours, and ours as theirs.

An event becomes a message: `type` is its event name unless the door says another, the data its payload, all other
attributes are headers `ce-NAME`. `source` and `id` together become the message's id: an event that is sent again is
stored once. `partitionkey` becomes the key. A message becomes an event again by the same way back; one that never was
an event gets `source` /queues/QUEUE, and an `id` of its place. Where it is to be acked stands in extensions:

    tidingsqueue  tidingssequence  tidingsattempt  tidingsposition

Attributes of other types than text become text, as over the binary mode of HTTP. The three modes are those of the
HTTP binding (section 3), the JSON format is version 1.0.2.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

import msgspec

from tidings import limits
from tidings.broker.effects import Gap
from tidings.errors import InvalidPayload
from tidings.gateways.messages import gap_entry, header_content_type, iso_time, payload_entry, spell_position
from tidings.model import BYTES, JSON, epoch_of
from tidings.node.drafts import Draft

if TYPE_CHECKING:
    from tidings.node import Delivery

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
GAP_TYPE: Final = "tidings.gap"
"""The type of the event that tells of a gap."""

_PREFIX: Final = "ce-"
_REQUIRED: Final = ("id", "source", "specversion", "type")
_NAME: Final = re.compile("[a-z0-9]+")
# What stands elsewhere in a message than in a header of its own.
_ELSEWHERE: Final = frozenset(("specversion", "type", "datacontenttype"))
_RESERVED: Final = frozenset(("specversion", "datacontenttype", "data"))
_TO_ESCAPE: Final = re.compile(r'[^!-~]|["%]')
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])


def is_binary_event(headers: Mapping[str, str]) -> bool:
    """Whether HTTP headers, named in lower case, are those of an event in binary mode: all that it needs are there."""
    return all(_PREFIX + name in headers for name in _REQUIRED)


def parse_binary(headers: Mapping[str, str], body: bytes, event: str | None) -> Draft:
    """Returns an event of the binary mode as a message; `event` is its event name, None for its type.

    Raises:
        InvalidPayload: it is no event.
    """
    attributes = {
        name[len(_PREFIX) :]: _unescape(value)
        for name, value in headers.items()
        if name.startswith(_PREFIX) and name != _PREFIX + "datacontenttype"
    }
    return _draft(attributes, body, headers.get("content-type") or BYTES, event)


def parse_structured(body: bytes, event: str | None) -> Draft:
    """Returns an event of the structured mode as a message, see `parse_binary`.

    Raises:
        InvalidPayload: it is no event.
    """
    try:
        body.decode()  # msgspec looks into no text that it does not decode
        found = _OBJECT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPayload(f"a CloudEvent is a JSON object in UTF-8; this is not: {error}") from None
    data = found.pop("data", None)
    data_base64 = found.pop("data_base64", None)
    attributes = {name: text for name, value in found.items() if (text := _attribute(name, value)) is not None}
    content_type = attributes.pop("datacontenttype", None)
    payload, content_type = _data(data, data_base64, content_type)
    return _draft(attributes, payload, content_type, event)


def parse_batch(body: bytes, event: str | None) -> list[Draft]:
    """Returns the events of a batch as messages, see `parse_binary`.

    Raises:
        InvalidPayload: it is no batch of events; the error says which of them is none.
    """
    try:
        entries = _ARRAY.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidPayload(f"a batch of CloudEvents is a JSON array; this is not: {error}") from None
    drafts: list[Draft] = []
    for place, entry in enumerate(entries):
        try:
            drafts.append(parse_structured(bytes(entry), event))
        except InvalidPayload as error:
            raise InvalidPayload(f"event {place} of the batch: {error.text}") from None
    return drafts


def event_entry(item: "Delivery | Gap") -> dict[str, object]:
    """Returns a delivery, or the gap in its place, as an event in the JSON format."""
    attributes = _attributes_of(item)
    return attributes | _data_of(item) if "datacontenttype" in attributes else dict(attributes)


def batch_entry(items: "Iterable[Delivery | Gap]") -> list[dict[str, object]]:
    """Returns deliveries and gaps as a batch of events."""
    return [event_entry(item) for item in items]


def binary_event(item: "Delivery | Gap") -> tuple[dict[str, str], bytes]:
    """Returns a delivery, or the gap in its place, as the headers and the body of an event in binary mode."""
    attributes = _attributes_of(item)
    content_type = str(attributes.pop("datacontenttype", ""))
    headers = {_PREFIX + name: _escape(str(value)) for name, value in attributes.items()}
    if content_type:
        headers["content-type"] = header_content_type(content_type)
    return headers, msgspec.json.encode(gap_entry(item)) if isinstance(item, Gap) else item.payload


# --- from events ---


def _draft(attributes: dict[str, str], payload: bytes, content_type: str, event: str | None) -> Draft:
    for name in _REQUIRED:
        if not attributes.get(name):
            raise InvalidPayload(f"a CloudEvent needs {', '.join(_REQUIRED)}; {name} is missing or empty")
    if attributes["specversion"] != "1.0":
        raise InvalidPayload(f"specversion {attributes['specversion']!r} is not known here; 1.0 is")
    for name in attributes:
        if not _NAME.fullmatch(name) or name == "data":
            raise InvalidPayload(f"{name!r} is no name of an attribute: those are of a to z and 0 to 9")
    event = event or attributes["type"]
    headers = {_PREFIX + name: value for name, value in attributes.items() if name not in _ELSEWHERE}
    if event != attributes["type"]:
        headers["ce-type"] = attributes["type"]
    return Draft(event, payload, content_type, _message_id(attributes), attributes.get("partitionkey"), headers)


def _message_id(attributes: Mapping[str, str]) -> str:
    both = f"{attributes['source']} {attributes['id']}"
    return both if len(both) <= limits.ID_LENGTH_MAX else hashlib.sha256(both.encode()).hexdigest()


def _attribute(name: str, value: msgspec.Raw) -> str | None:
    try:
        decoded = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidPayload(f"attribute {name!r} is not JSON: {error}") from None
    if decoded is None:
        return None  # JSON format, section 2.2: the same as one that is left out
    if isinstance(decoded, bool):
        return "true" if decoded else "false"
    if isinstance(decoded, str):
        return decoded
    if isinstance(decoded, int):
        return str(decoded)
    kind = type(decoded).__name__
    raise InvalidPayload(f"attribute {name!r} is a {kind}; it can be a string, an integer or a boolean")


def _data(data: msgspec.Raw | None, data_base64: msgspec.Raw | None, content_type: str | None) -> tuple[bytes, str]:
    """Returns payload and content type (JSON format, section 3.1.2)."""
    if data is not None and data_base64 is not None:
        raise InvalidPayload("a CloudEvent has data or data_base64, not both")
    if data_base64 is not None:
        try:
            return base64.b64decode(msgspec.json.decode(data_base64, type=str), validate=True), content_type or BYTES
        except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
            raise InvalidPayload(f"data_base64 is not a string in Base64: {error}") from None
    if data is None:
        return b"", content_type or BYTES
    if content_type is None or _is_json_type(content_type):
        return bytes(data), content_type or JSON
    try:
        return msgspec.json.decode(data, type=str).encode(), content_type
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise InvalidPayload(f"data of type {content_type!r} is a string, or stands in data_base64") from None


def _is_json_type(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind.endswith(("/json", "+json"))


def _unescape(value: str) -> str:
    """Returns an attribute as it was before it became a header (HTTP binding, section 3.1.3.2)."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise InvalidPayload(f"the attribute {value!r} is not UTF-8 behind its percent signs") from None


# --- to events ---


def _attributes_of(item: "Delivery | Gap") -> dict[str, str | int]:
    """Returns all that is said of a delivery or a gap beside its data."""
    queue, sequence = item.queue, item.last_sequence if isinstance(item, Gap) else item.sequence
    common: dict[str, str | int] = {
        "specversion": "1.0",
        "source": f"/queues/{quote(queue, safe='')}",
        "tidingsqueue": queue,
        "tidingsposition": spell_position({item.epoch: sequence}),
    }
    if isinstance(item, Gap):
        id = f"gap-{epoch_of(item.epoch)}-{item.first_sequence}-{item.last_sequence}"
        return common | {"id": id, "type": GAP_TYPE, "datacontenttype": JSON}
    entry = common | {
        "id": item.id or f"{epoch_of(item.epoch)}-{item.sequence}",
        "type": item.event,
        "time": iso_time(item.time_ms),
        "tidingssequence": str(item.sequence),
        "tidingsattempt": item.attempt,
    }
    if item.key is not None:
        entry["partitionkey"] = item.key
    for name, value in (item.headers or {}).items():
        attribute = name[len(_PREFIX) :] if name.startswith(_PREFIX) else name
        own = attribute in _RESERVED or attribute.startswith("tidings")
        if _NAME.fullmatch(attribute) and not own and (name.startswith(_PREFIX) or attribute not in entry):
            entry[attribute] = value
    if item.payload or item.content_type != BYTES:
        entry["datacontenttype"] = item.content_type
    return entry


def _data_of(item: "Delivery | Gap") -> dict[str, object]:
    if isinstance(item, Gap):
        return {"data": gap_entry(item)}
    told = payload_entry(item.payload, item.content_type)
    return {"data": told["payload"]} if "payload" in told else {"data_base64": told["payload_base64"]}


def _escape(value: str) -> str:
    """Returns an attribute as a header may have it (HTTP binding, section 3.1.3.2)."""
    return _TO_ESCAPE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), value)
