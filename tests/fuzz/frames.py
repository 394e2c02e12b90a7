"""Frames of a client that nobody wrote well: mostly what the protocol allows, sometimes just not."""

from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from tests.fuzz.choices import Choices
from tidings import calls
from tidings.batch import encode_item
from tidings.model import Flags, Run
from tidings.wire import Call, Goodbye, Hello, Publish, Subscribe, Transact, Unsubscribe
from tidings.wire.codec import encode
from tidings.wire.frames import CLIENT_KINDS, VERSION

_NAMES: Final = (
    *("a", "b", "a.b") * 4,
    "a",
    "b",
    "a.b",
    "$presence",
    "well-behaved",
    "",
    "*",
    "#",
    "a.#",
    "a b",
    "$x",
    "é" * 127,
    "x" * 256,
)
_TEXTS: Final[dict[str, tuple[str, ...]]] = {
    "queue": _NAMES,
    "event": ("#", "#", "e", "e.#", "f.*", *_NAMES),
    "name": (
        "rogue:a/#",
        *(name for name in _NAMES if name != "well-behaved"),
    ),  # nobody is asked to delete what the well-behaved live on
    "client_id": ("rogue", "other", "", "a b", "x" * 256, "well-behaved-subscriber"),
    "producer": ("rogue", "other", "x" * 255, "", "x" * 256),
    "start": ("earliest", "latest", "last", "sequence", "time", "never"),
    "what": ("queue", "subscription", "queues", "subscriptions", "clients", "", "all"),
    "end": (*[""] * 12, "latest", "sequence", "time", "never"),
    "path": ("", "/", "\0", "backup", "x" * 5000),
}
_CALLS: Final = tuple(calls.ANSWERS)
_IN_CALLS: Final[dict[str, tuple[str, ...]]] = _TEXTS | {
    # What may rightly be emptied, stopped or slowed by anybody is not what the well-behaved live on.
    "queue": (*("a", "b", "a.b") * 4, "", "*", "a b", "x" * 256),
    "name": ("a", "b", "rogue:a/#", "rogue:a/#", "", "*"),
    "subscription": ("rogue:a/#", "rogue:b/#", "other:a/#", "", "*"),
    "client_id": ("rogue", "other", "", "a b"),
    "start": ("earliest", "latest", "sequence", "time", "never"),
    "to": ("earliest", "latest", "sequence", "time", "never"),
    "url": ("http://example.com/a", "https://[::1]/", "ftp://x", ""),
}
_KINDS: Final = (*[3, 9, 5] * 16, *[7, 11, 13, 17, 19, 23] * 5, *[21] * 15, 15, 64, 65, 1)
"""How often each kind is said; the last two end a connection."""
_EXTREMES: Final = (-1, 0, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
_FLOATS: Final = (*[0.0] * 12, 1.5, -1.0, 1e300, float("inf"), float("nan"))


def frame(choices: Choices) -> bytes:
    """Returns one frame, spelled, or two of a client in a hurry; now and then its bytes are not what was meant."""
    kind = CLIENT_KINDS[choices.pick(_KINDS)]
    if kind is Publish:
        data = publish(choices)
    elif kind is Transact:
        data = transact(choices)
    elif kind is Call:
        data = call(choices)
    elif kind is Goodbye:
        data = encode(Goodbye(choices.pick(["", "draining", "x"])))
    else:
        said = _struct(kind, choices)
        data = encode(said)
        if isinstance(said, Subscribe) and choices.below(4) == 3:
            # It changes its mind before it is answered.
            data += encode(Unsubscribe(_number("request", choices), said.handle))
    if choices.below(128) == 127:
        place = choices.number(2) % len(data)
        data = data[:place] + choices.take(1 + choices.below(4)) + data[place + choices.below(4) :]
    return data


def hello(choices: Choices) -> bytes:
    """Returns a Hello, in most cases a good one."""
    if choices.below(8) == 7:
        return encode(_struct(Hello, choices))
    return encode(Hello(VERSION, choices.pick([None, None, "rogue", "other"]), choices.pick(["rogue", "other"])))


def publish(choices: Choices) -> bytes:
    """Returns a Publish with a body that its runs describe, or nearly."""
    runs, body = _batch(choices)
    frame = Publish(*_place_in_series(choices), choices.pick(_NAMES), runs)
    return encode(frame, len(body)) + body


def transact(choices: Choices) -> bytes:
    """Returns a Transact of some batches, described as they are, or nearly, and some acks."""
    batches: list[tuple[str, list[Run]]] = []
    bodies: list[bytes] = []
    for _ in range(choices.below(3)):
        runs, body = _batch(choices)
        batches.append((choices.pick(_NAMES), runs))
        bodies.append(body)
    acks: list[tuple[int, int, int, int]] = _value(get_type_hints(Transact)["acks"], "acks", choices)
    body = b"".join(bodies)
    return encode(Transact(*_place_in_series(choices), batches, acks), len(body)) + body


def call(choices: Choices) -> bytes:
    """Returns a Call, in most cases one that a server knows."""
    said = _struct(choices.pick(_CALLS), choices, _IN_CALLS)
    body = msgspec.msgpack.encode(said)
    if choices.below(16) == 15:
        body = choices.pick([b"", b"\x80", b"\xc1", body[:-1], body + b"\x00"])
    return encode(Call(_number("request", choices)), len(body)) + body


def _batch(choices: Choices) -> tuple[list[Run], bytes]:
    runs: list[Run] = []
    body = b""
    for _ in range(1 + choices.below(3)):
        flags = choices.below(8) if choices.below(4) == 3 else 0
        items = [
            encode_item(
                bytes(choices.below(64)),
                "id" if flags & Flags.IDS else None,
                "key" if flags & Flags.KEYS else None,
                {"h": "v"} if flags & Flags.HEADERS else None,
            )
            for _ in range(1 + choices.below(8))
        ]
        piece = b"".join(items)
        run = Run(choices.pick(["e", "f.g", "e", *_NAMES]), len(items), len(piece), flags=flags)
        if choices.below(16) == 15:
            wrong: dict[str, Any] = {choices.pick(["count", "size", "flags"]): _number("", choices)}
            run = msgspec.structs.replace(run, **wrong)
        runs.append(run)
        body += piece
    return runs, body


def _place_in_series(choices: Choices) -> tuple[int, int]:
    """Returns number and answered of a Publish or Transact."""
    number = 1 + choices.below(32)
    answered = choices.below(number + 1) // 4
    if choices.below(16) == 15:
        return _number("", choices), _number("", choices)
    return number, answered


def _struct(kind: type[msgspec.Struct], choices: Choices, texts: dict[str, tuple[str, ...]] = _TEXTS) -> Any:
    """Returns a struct. What may be left out mostly is, or one odd value of many would have all of it refused."""
    hints, given = get_type_hints(kind), dict[str, Any]()
    for field in msgspec.structs.fields(kind):
        if field.required or choices.below(3) == 2:
            given[field.name] = _value(hints[field.name], field.name, choices, texts)
    return kind(**given)


def _value(hint: Any, name: str, choices: Choices, texts: dict[str, tuple[str, ...]] = _TEXTS) -> Any:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct(hint, choices, texts)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(_value(arguments[0], name, choices, texts) for _ in range(choices.below(4)))
    if origin is list:
        return [_value(arguments[0], name, choices, texts) for _ in range(choices.below(4))]
    if origin is tuple:
        return tuple(_value(argument, name, choices) for argument in arguments)
    if origin is dict:
        return choices.pick([{}, {"h": "v"}, {"h": ""}, {"": "v"}, {"h": "x" * 300}])
    if origin is Literal:
        return choices.pick([*arguments, "never"])
    if arguments:  # something or None, or left as it is
        return None if type(None) in arguments and choices.below(2) else _value(arguments[0], name, choices, texts)
    if hint is int:
        return _number(name, choices)
    if hint is bool:
        return False if name == "take_over" else bool(choices.below(2))
    if hint is float:
        return choices.pick(_FLOATS)
    if hint is bytes:
        return choices.pick([b"1", b"", b"{"])
    assert hint is str, f"nothing is known to say for {name or 'a value'} of {hint}"
    return choices.pick(texts.get(name, ("", "a", "x" * 300)))


def _number(name: str, choices: Choices) -> int:
    if name == "wait_ms":  # all is answered before it is looked at whether it was
        return choices.pick([0, 1, 1000, -1])
    if choices.below(64) == 63:
        return choices.pick(_EXTREMES)
    if name == "concurrency":
        return 1 + choices.below(4)
    if name in ("in_flight_max", "ack_timeout_ms", "expires_after_ms"):
        return choices.pick([0, 100, 5000] if name != "in_flight_max" else [0, 1, 5])
    if name == "version":
        return VERSION
    return choices.below(8)
