"""Frames of a client that nobody wrote well: mostly what the protocol allows, sometimes just not."""

from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from tests.fuzz.choices import Choices
from tidings.batch import encode_item
from tidings.model import Flags, Run
from tidings.wire import Goodbye, Hello, Publish, Subscribe, Unsubscribe
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
_KINDS: Final = (*[3, 9, 5] * 16, *[7, 11, 13, 17, 19] * 5, 15, 64, 65, 1)
"""How often each kind is said; the last two end a connection."""
_EXTREMES: Final = (-1, 0, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
_FLOATS: Final = (*[0.0] * 12, 1.5, -1.0, 1e300, float("inf"), float("nan"))


def frame(choices: Choices) -> bytes:
    """Returns one frame, spelled, or two of a client in a hurry; now and then its bytes are not what was meant."""
    kind = CLIENT_KINDS[choices.pick(_KINDS)]
    if kind is Publish:
        data = publish(choices)
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
    number = 1 + choices.below(32)
    frame = Publish(number, choices.below(number + 1) // 4, choices.pick(_NAMES), runs)
    if choices.below(16) == 15:
        frame = msgspec.structs.replace(frame, number=_number("", choices), answered=_number("", choices))
    return encode(frame, len(body)) + body


def _struct(kind: type[msgspec.Struct], choices: Choices) -> Any:
    """Returns a struct. What may be left out mostly is, or one odd value of many would have all of it refused."""
    hints, given = get_type_hints(kind), dict[str, Any]()
    for field in msgspec.structs.fields(kind):
        if field.required or choices.below(3) == 2:
            given[field.name] = _value(hints[field.name], field.name, choices)
    return kind(**given)


def _value(hint: Any, name: str, choices: Choices) -> Any:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct(hint, choices)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(_value(arguments[0], name, choices) for _ in range(choices.below(4)))
    if origin is list:
        return [_value(arguments[0], name, choices) for _ in range(choices.below(4))]
    if origin is tuple:
        return tuple(_value(argument, name, choices) for argument in arguments)
    if arguments:  # something or None
        return None if choices.below(2) else _value(arguments[0], name, choices)
    if hint is int:
        return _number(name, choices)
    if hint is bool:
        return False if name == "take_over" else bool(choices.below(2))
    if hint is float:
        return choices.pick(_FLOATS)
    assert hint is str, f"nothing is known to say for {name or 'a value'} of {hint}"
    return choices.pick(_TEXTS.get(name, ("", "a", "x" * 300)))


def _number(name: str, choices: Choices) -> int:
    if choices.below(64) == 63:
        return choices.pick(_EXTREMES)
    if name == "concurrency":
        return 1 + choices.below(4)
    if name in ("in_flight_max", "ack_timeout_ms", "expires_after_ms"):
        return choices.pick([0, 100, 5000] if name != "in_flight_max" else [0, 1, 5])
    if name == "version":
        return VERSION
    return choices.below(8)
