"""What the application passes, checked and encoded before anything is sent."""

from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, repeat
from operator import itemgetter
from typing import Annotated, Final

import msgspec

from tidings import limits
from tidings.batch import check_headers_size, check_payload_size, encode_item
from tidings.errors import InvalidOption, InvalidPayload
from tidings.model import BYTES, JSON, Flags, check_name

_Short = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.ID_LENGTH_MAX)]
_Headers = Annotated[dict[str, str], msgspec.Meta(max_length=limits.HEADERS_MAX)]
_json: Final = msgspec.json.Encoder().encode
_messagepack: Final = msgspec.msgpack.Encoder().encode

Piece = tuple[str, int, bytes]
"""Messages of one content type, encoded: content type, count, body."""


def check_address(queue: str, event: str) -> None:
    """Checks the names of a queue and an event. Remembers those that are good.

    Raises:
        InvalidOption: a name is not a str.
        InvalidName: a name breaks the rules.
    """
    try:
        _check_address(queue, event)
    except TypeError:  # what cannot be looked up among those remembered, a list for example
        kinds = f"{type(queue).__name__} and {type(event).__name__}"
        raise InvalidOption(f"the names of a queue and an event are strs, not {kinds}") from None


@lru_cache(maxsize=4_096)
def _check_address(queue: str, event: str) -> None:
    for name, what in ((queue, "queue"), (event, "event")):
        if not isinstance(name, str):
            raise InvalidOption(f"the name of the {what} is a str, not {type(name).__name__}")
        check_name(name, what)


def check_payloads(payloads: object) -> None:
    """Checks what many payloads are to be taken from. A single one that could be iterated over is not meant so.

    Raises:
        InvalidOption: it is no iterable, or a text, bytes or a dict.
    """
    single = isinstance(payloads, str | bytes | bytearray | memoryview | Mapping)
    if single or not isinstance(payloads, Iterable | AsyncIterable):
        raise InvalidOption(
            f"payloads is a {type(payloads).__name__}; write a list or another iterable of payloads, or use publish for"
            " a single one"
        )


def encode_payload(payload: object, content_type: str | None = None) -> tuple[bytes, str]:
    """Returns a payload's bytes and content type.

    Bytes-like payloads stay as they are (application/octet-stream unless told otherwise). For a content type that
    is not JSON, a str is encoded as UTF-8. Everything else becomes JSON: what msgspec can encode, dataclasses and
    Structs included.

    Raises:
        InvalidPayload: it cannot be encoded.
        PayloadTooLarge: it exceeds the limit.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        data = payload if type(payload) is bytes else bytes(payload)
        content_type = content_type or BYTES
    elif content_type is None or content_type == JSON:
        content_type = JSON
        try:
            data = _json(payload)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            raise InvalidPayload(
                f"payload of type {type(payload).__name__} cannot be encoded as JSON: {error}"
            ) from error
    elif isinstance(payload, str):
        try:
            data = payload.encode()
        except UnicodeEncodeError as error:
            raise InvalidPayload(f"payload is not valid UTF-8: {error}") from None
    else:
        raise InvalidPayload(
            f"payload of type {type(payload).__name__} has content type {content_type!r}: pass bytes, or leave the"
            " content type out to encode it as JSON"
        )
    check_payload_size(len(data))
    return data, content_type


def encode_message(data: bytes, id: str | None, key: str | None, headers: dict[str, str] | None) -> tuple[bytes, int]:
    """Returns one message as it stands in a body, and its flags.

    Raises:
        InvalidOption: id, key or headers are not what they may be.
        PayloadTooLarge: the headers exceed their limit.
    """
    if id is None and key is None and not headers:
        return encode_item(data, None, None, None), 0
    flags = 0
    try:
        if id is not None:
            msgspec.convert(id, _Short)
            flags |= Flags.IDS
        if key is not None:
            msgspec.convert(key, _Short)
            flags |= Flags.KEYS
        if headers:
            msgspec.convert(headers, _Headers)
            flags |= Flags.HEADERS
    except msgspec.ValidationError as error:
        raise InvalidOption(
            f"id and key are strings of 1 to {limits.ID_LENGTH_MAX} characters, headers at most {limits.HEADERS_MAX}"
            f" names and values that are strings: {error}"
        ) from None
    try:
        if headers:
            check_headers_size(headers)
        return encode_item(data, id, key, headers or None), flags
    except UnicodeEncodeError as error:
        raise InvalidOption(f"id, key and headers must be valid UTF-8: {error}") from None


def check_content_type(content_type: str | None) -> None:
    """Raises InvalidOption if a content type is not a short string."""
    if content_type is not None and content_type != JSON and content_type != BYTES:
        try:
            size = len(msgspec.convert(content_type, str).encode())
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            raise InvalidOption(f"a content type is a string: {error}") from None
        if not 1 <= size <= limits.NAME_SIZE_BYTES_MAX:
            raise InvalidOption(f"content type of {size} bytes is outside 1 to {limits.NAME_SIZE_BYTES_MAX} bytes")


def encode_many(payloads: Sequence[object], content_type: str | None) -> Iterator[Piece]:
    """Yields payloads without id, key and headers as pieces that fit into a batch, in order.

    Raises:
        InvalidPayload: one cannot be encoded; none of the sequence was yielded.
        PayloadTooLarge: one exceeds the limit; none of the sequence was yielded.
    """
    if set(map(type, payloads)) == {bytes}:
        if max(map(len, payloads)) > limits.PAYLOAD_SIZE_BYTES_MAX:  # type: ignore[arg-type]  # all are bytes
            check_payload_size(max(map(len, payloads)))  # type: ignore[arg-type]
        yield from _pieces(content_type or BYTES, payloads)
        return
    encoded = [encode_payload(payload, content_type) for payload in payloads]
    for kind, group in groupby(encoded, itemgetter(1)):
        yield from _pieces(kind, [data for data, _ in group])


def _pieces(content_type: str, datas: Sequence[object]) -> Iterator[Piece]:
    count = len(datas)
    # One call encodes them all, as an array whose header is then left out.
    body = _messagepack(list(zip(datas, repeat(None), repeat(None), repeat(None))))  # repeat never ends
    header_size = 1 if count < 16 else 3 if count < 65_536 else 5
    if len(body) > limits.BATCH_SIZE_BYTES_MAX and count > 1:
        yield from _pieces(content_type, datas[: count // 2])
        yield from _pieces(content_type, datas[count // 2 :])
    else:
        yield content_type, count, body[header_size:]
