"""What must hold for any text and any value that a user passes: names, filters, addresses, payloads."""

from collections.abc import Sequence
from functools import partial

import msgspec

from tests.fuzz.choices import Choices
from tidings.batch import decode_items
from tidings.broker.filters import Filter
from tidings.client.payloads import (
    check_address,
    check_content_type,
    encode_many,
    encode_message,
    encode_payload,
)
from tidings.config import ServerConfig, check_store, parse_address
from tidings.connect import dialer_for
from tidings.errors import InvalidFilter, InvalidName, InvalidOption, InvalidPayload, PayloadTooLarge
from tidings.limits import NAME_SIZE_BYTES_MAX
from tidings.model import BYTES, JSON, check_label, check_name


def filters(data: bytes) -> None:
    """A pattern is refused, or selects what its tokens say; a name is refused, or is one that may be used."""
    queue, event, name = _texts(data, 3)
    if _is_valid(partial(check_name, name, "queue")):
        assert 1 <= len(name.encode()) <= NAME_SIZE_BYTES_MAX
        assert not any(character.isspace() or character in "*#/\0" for character in name)
        assert all(name.split("."))
        assert name.startswith("$") or Filter(name, "#").literal
        check_label(name, "client id")
    else:
        name = "some.name"
    _is_valid(partial(check_label, queue, "client id"))
    try:
        chosen = Filter(queue, event)
    except InvalidFilter as error:
        assert error.text
        return
    for each in (name, queue.replace("*", "x").replace("#", "y.z"), "a"):
        assert chosen.wants_event(each) == _selects(event.split("."), each.split("."))
        if not each.startswith("$") and not queue.startswith("$"):
            assert chosen.wants_queue(each) == _selects(queue.split("."), each.split("."))


def _selects(pattern: Sequence[str], tokens: Sequence[str]) -> bool:
    if not pattern or not tokens:
        return not tokens and (not pattern or list(pattern) == ["#"])
    if list(pattern) == ["#"]:
        return True
    return pattern[0] in ("*", tokens[0]) and _selects(pattern[1:], tokens[1:])


def _is_valid(check: partial[str]) -> bool:
    try:
        check()
    except InvalidName as error:
        assert error.text
        return False
    return True


def addresses(data: bytes) -> None:
    """An address is refused with what to write instead, or means the same when it is written again."""
    first, second = _texts(data, 2)
    for url in (first, f"tidings://{first}", f"tidings://{first}:{second}", f"tidings://[{first}]:{second}"):
        try:
            address = parse_address(url)
        except InvalidOption as error:
            assert error.text
        else:
            assert parse_address(address.url) == address
            assert 0 <= address.port <= 65_535
        for attempt in (
            partial(ServerConfig, store=first, listen=(url,)),
            partial(ServerConfig, listen=(url, second), insecure=True),
            partial(check_store, url),
            partial(dialer_for, url),
        ):
            try:
                attempt()
            except InvalidOption as error:
                assert error.text


def payloads(data: bytes) -> None:
    """What an application publishes becomes a body that decodes to the same, or is refused before it is sent."""
    choices = Choices(data)
    content_type = choices.pick([None, JSON, BYTES, "text/plain", "x" * 300])
    try:
        value = msgspec.msgpack.decode(choices.rest())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    try:
        check_content_type(content_type)
        body, _ = encode_payload(value, content_type)
        [item] = decode_items(1, 0, encode_message(body, None, None, None)[0])
        assert item == (body, None, None, None)
        if isinstance(value, list) and value:
            pieces = list(encode_many(value, content_type))
            assert sum(count for _, count, _ in pieces) == len(value)
            for _, count, piece in pieces:
                decode_items(count, 0, piece)
    except (InvalidOption, InvalidPayload, PayloadTooLarge) as error:
        assert error.text
    for id, key, headers in ((value, None, None), (None, value, None), (None, None, value)):
        try:
            body, flags = encode_message(b"", id, key, headers)
        except (InvalidOption, PayloadTooLarge) as error:
            assert error.text
        else:
            assert decode_items(1, flags, body) == [(b"", id, key, headers or None)]
    try:
        check_address(value, "e")
    except (InvalidOption, InvalidName) as error:
        assert error.text


def _texts(data: bytes, count: int) -> list[str]:
    pieces = data.decode("utf-8", "surrogateescape").split("\n", count - 1)
    return pieces + [""] * (count - len(pieces))
