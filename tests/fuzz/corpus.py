"""What mutation starts from: the bytes of the protocol's worked example, and valid inputs of every other target."""

import random
import re
from pathlib import Path
from typing import Final

import msgspec

from tests.unit.broker.harness import Harness
from tidings.batch import StoredBatch
from tidings.store.sqlite.rows import encode_row
from tidings.testing.store_contract import make_batch
from tidings.wire import Gap, Publish, Refusal
from tidings.wire.codec import HEADER_SIZE_BYTES, encode
from tidings.wire.frames import CLIENT_KINDS, KIND_OF

_PROTOCOL: Final = Path(__file__).parents[2] / "docs" / "protocol.md"
_REGRESSIONS: Final = Path(__file__).parent / "regressions.txt"
_CONVERSATION_BYTES: Final = 600


def seeds(target: str) -> list[bytes]:
    """Returns sound inputs of a target."""
    client, server = _examples("client"), _examples("server")
    one_way, other_way = b"".join(client), b"".join(server)
    match target:
        case "frames":
            return [b"\1\7" + each for each in (*client, one_way)] + [b"\0\7" + each for each in (*server, other_way)]
        case "connection":
            return [b"\1" + _in_pieces(one_way), b"\0" + _in_pieces(other_way)]
        case "batch":
            return [_batch(each) for each in client if each[4] == KIND_OF[Publish]]
        case "client":
            # The example has none of these.
            server += [encode(frame) for frame in (Gap(1, "q", 2, 1, 3, "trimmed"), Refusal(5, 1, "not_found", "why"))]
            after_welcome = b"".join(server[1:])
            return [_sized(b"\0", other_way), _sized(b"\1", after_welcome), *(_sized(b"\1", each) for each in server)]
        case "payload":
            return [b"\0\0" + b'{"id":7}', b'\1\0{"a":1}', b'\2\0["a"]', b"\4\0null", b"\0\1text"]
        case "row":
            rows = [encode_row(1, 7, StoredBatch(3, 1000, make_batch(count))) for count in (1, 3)]
            return [bytes([right]) + msgspec.msgpack.encode(row) for row in rows for right in (0, 1)]
        case "records":
            return [msgspec.msgpack.encode(_records())]
        case "filters":
            return [b"orders\ncreated\norders", b"files.*\nmade.#\nfiles.a", b"#\n*\na.b.c", b"$presence\n#\n$presence"]
        case "addresses":
            return [b"127.0.0.1\n7433", b"::1\n0", b"localhost/\n", b"sqlite:events.db\n", b"memory:\n"]
        case "payloads":
            values: list[object] = [{"id": 7}, [b"a", b"b"], "text", {"h": "v"}, b"x", 1.5, None, ["a", {}, 2]]
            return [bytes([kind]) + msgspec.msgpack.encode(value) for value in values for kind in (0, 2)]
        case "socketio":
            said = ['40/orders,{"clientId":"a"}', '42/orders,1["created",{"id":7}]', '451-/orders,["e",{"a":1}]']
            frames = b"".join([b"\1" + _piece(each.encode()) + b"\0\1" for each in (*said, "41/orders,", "3")])
            bytes_too = b"\1" + _piece(b"\1\2") + b"\1\1"
            body = "\x1e".join([said[0], said[2], "bAQI=", said[1]]).encode()
            return [b"\0" + frames + bytes_too, b"\1\1" + _piece(body) + b"\1" * 8]
        case _:
            # Decisions, not bytes of a format: any are as good.
            return [random.Random(seed).randbytes(_CONVERSATION_BYTES) for seed in range(8)]


def regressions() -> list[tuple[str, bytes]]:
    """Returns what fuzzing found once: the target and the input."""
    lines = [line.split() for line in _REGRESSIONS.read_text(encoding="utf-8").splitlines() if line]
    found = [(line[0], line[1]) for line in lines if not line[0].startswith("#")]
    return [(target, b"" if data == "-" else bytes.fromhex(data)) for target, data in found]


def mutated(seed: bytes, randomness: random.Random) -> bytes:
    """Returns a seed after a few changes: bits, bytes, pieces cut out, repeated, put in."""
    data = bytearray(seed)
    for _ in range(randomness.randint(1, 4)):
        place = randomness.randint(0, len(data))
        size = randomness.choice((1, 1, 1, 2, 4, 8))
        match randomness.randint(0, 5):
            case 0:
                del data[place : place + size]
            case 1:
                data[place:place] = randomness.randbytes(size)
            case 2:
                data[place:place] = data[place : place + 4 * size]
            case 3:
                data[place : place + size] = b"\xff" * size
            case _ if place < len(data):
                data[place] ^= 1 << randomness.randint(0, 7)
    return bytes(data)


def _examples(sender: str) -> list[bytes]:
    text = _PROTOCOL.read_text(encoding="utf-8")
    found = re.findall(rf"```hex\n# {sender} \w+\n([0-9a-f \n]+)```", text)
    assert found, "the page of the protocol has no example"
    return [bytes.fromhex(each) for each in found]


def _in_pieces(stream: bytes) -> bytes:
    # As `wire_targets.connection` reads it: an action, a size of one byte, so many bytes.
    pieces = [stream[start : start + 200] for start in range(0, len(stream), 200)]
    return b"".join(b"\2" + bytes([len(piece)]) + piece for piece in pieces)


def _piece(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def _sized(before: bytes, stream: bytes) -> bytes:
    return before + (len(stream) - 1).to_bytes(2, "big") + stream


def _batch(frame: bytes) -> bytes:
    envelope_size = int.from_bytes(frame[5:8], "big")
    envelope = frame[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + envelope_size]
    publish = msgspec.msgpack.decode(envelope, type=CLIENT_KINDS[KIND_OF[Publish]])
    assert isinstance(publish, Publish)
    runs = msgspec.msgpack.encode(publish.runs)
    return len(runs).to_bytes(2, "big") + runs + frame[HEADER_SIZE_BYTES + envelope_size :]


def _records() -> dict[str, bytes]:
    harness = Harness()
    client = harness.connect("reader")
    handle = client.subscribe("orders", expires_after_ms=1000)
    client.subscribe("*", "made.#")
    for queue in ("orders", "orders", "files", "gone"):
        client.publish(queue)
    client.ack(handle, 1)
    client.delete("queue", "gone")
    harness.connect()
    harness.flush()
    return harness.records()
