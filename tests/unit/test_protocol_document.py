"""docs/protocol.md against the code: its bytes, its tables, and its conversation against a real server."""

import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
import pytest

from tidings import limits
from tidings.batch import Batch
from tidings.calls import ANSWERS
from tidings.errors import REGISTRY, reconnects
from tidings.model import (
    ClientInfo,
    DeadLetterGroup,
    DeadLetterInfo,
    Failure,
    HeaderFilter,
    MessageInfo,
    MovedInfo,
    QueueInfo,
    QueueSettings,
    Receipt,
    ReplyInfo,
    Run,
    ScheduledInfo,
    SubscriptionInfo,
)
from tidings.server import Server
from tidings.store.memory import MemoryStore
from tidings.transaction import Commit
from tidings.wire import Ack, Deliver, Part, Publish, Resume, Transact
from tidings.wire.codec import Reader, encode
from tidings.wire.frames import CLIENT_KINDS, SERVER_KINDS, WITH_BODY, Frame

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
DEADLINE_S = 10.0


class Example(NamedTuple):
    sender: str
    name: str
    described: str
    data: bytes


def examples() -> list[Example]:
    found = re.findall(r"(client|server): `(.*)`\n\n```hex\n# (\w+) (\w+)\n([0-9a-f \n]+)```", PAGE)
    assert all(sender == again for sender, _, again, _, _ in found)
    return [Example(sender, name, text, bytes.fromhex(data)) for sender, text, _, name, data in found]


def decoded(example: Example) -> tuple[Frame, bytes]:
    kinds = CLIENT_KINDS if example.sender == "client" else SERVER_KINDS
    reader = Reader(kinds, limits.DELIVERY_BODY_SIZE_BYTES_MAX)
    [(frame, body)] = reader.receive_data(example.data)
    reader.receive_eof()
    return frame, body


def rows(heading: str) -> list[list[str]]:
    """Returns the cells of the first table after a heading, without its first two lines."""
    lines = PAGE.partition(f"{heading}\n")[2].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|---")) - 1
    table: list[list[str]] = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return table[2:]


# --- the worked example ---


def test_every_frame_of_the_example_is_read_as_it_is_described() -> None:
    assert len(examples()) == 10
    for example in examples():
        frame, _ = decoded(example)
        assert (type(frame).__name__, repr(frame)) == (example.name, example.described)


def test_every_frame_of_the_example_is_what_the_codec_writes() -> None:
    for example in examples():
        frame, body = decoded(example)
        assert encode(frame, len(body)) + body == example.data


def test_the_bodies_of_the_example_are_what_their_runs_say() -> None:
    bodies = [(frame, body) for frame, body in map(decoded, examples()) if body]
    assert len(bodies) == 2
    for frame, body in bodies:
        runs = frame.runs if isinstance(frame, Publish) else frame.parts[0].runs  # type: ignore[union-attr]
        Batch(runs, body).validate()


class _Transport(asyncio.Transport):
    """Collects what the server writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.changed = asyncio.Event()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self.changed.set()

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    async def has_written(self, size: int) -> None:
        while len(self.written) < size:
            self.changed.clear()
            await self.changed.wait()


class _DiskLikeStore(MemoryStore):
    @property
    def durability(self) -> str:
        return "disk"


class _Clock:
    """Stands still until it is let go."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self.stopped = True

    def now_ms(self) -> int:
        self._now_ms += not self.stopped
        return self._now_ms


def _tokens() -> Iterator[str]:
    yield "node-1"
    yield "token-1"


async def test_a_real_server_answers_the_example_byte_for_byte() -> None:
    frames = [decoded(example)[0] for example in examples()]
    [now_ms] = [frame.parts[0].time_ms for frame in frames if isinstance(frame, Deliver)]
    tokens = _tokens()
    clock = _Clock(now_ms)
    store = _DiskLikeStore()
    await store.commit(Commit(puts=[("counters", msgspec.msgpack.encode([1, 1]))]))  # a new one begins anywhere
    server = Server(store, clock, lambda: next(tokens))
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run())
        await server.node.ready.wait()
        peer, transport = server.native.protocol_factory(), _Transport()
        peer.connection_made(transport)
        expected = b""
        for example in examples():
            if example.sender == "client":
                await transport.has_written(len(expected))
                peer.data_received(example.data)
            else:
                expected += example.data
        await transport.has_written(len(expected))
        assert transport.written == expected
        assert transport.closed
        peer.connection_lost(None)
        clock.stopped = False
        await server.drain()


# --- the tables ---


def test_the_table_of_kinds_is_complete() -> None:
    expected = {}
    for kind, frame in (CLIENT_KINDS | SERVER_KINDS).items():
        both = kind in CLIENT_KINDS and kind in SERVER_KINDS
        sender = "both" if both else "client" if kind in CLIENT_KINDS else "server"
        body = "messages" if frame in (Publish, Transact, Deliver) else "MessagePack"
        expected[str(kind)] = [frame.__name__, sender, body if kind in WITH_BODY else ""]
    assert {kind: rest[:3] for kind, *rest in rows("### Kinds")} == expected


def test_the_table_of_fields_names_every_field_in_its_order_with_its_default() -> None:
    documented = {name: re.findall(r"`(\w+)` ([^,]*?)(?= = |, `|$)(?: = ([^,]*))?", text) for name, text in _fields()}
    structs = [*(CLIENT_KINDS | SERVER_KINDS).values(), Run, Part, Resume, Failure, HeaderFilter]
    assert set(documented) == {struct.__name__ for struct in structs}
    for struct in structs:
        fields = msgspec.structs.fields(struct)
        assert [name for name, _, _ in documented[struct.__name__]] == [field.name for field in fields]
        for (name, kind, default), field in zip(documented[struct.__name__], fields, strict=True):
            assert (default != "") == (not field.required), f"{struct.__name__}.{name}"
            if default:
                value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
                assert default == _spelled(value), f"{struct.__name__}.{name}"
            assert ("nil" in kind) == (type(None) in get_args(field.type)), f"{struct.__name__}.{name}"


def _fields() -> Iterator[tuple[str, str]]:
    for name, text in rows("### Fields"):
        # Commas inside brackets separate no fields.
        yield name, re.sub(r"\[[^]]+\]", "tuple", text)


def _spelled(value: object) -> str:
    if value is None:
        return "nil"
    if isinstance(value, str):
        return f'"{value}"'
    return "[]" if value == () else str(value).lower()


def test_the_limits_are_those_of_the_code() -> None:
    table = rows("## Framing")
    assert len(table) > 10
    for name, value, _ in table:
        assert int(value.replace(",", "")) == getattr(limits, name.strip("`")), name


@pytest.mark.parametrize(
    ("listing", "entry"), [("clients", ClientInfo), ("queues", QueueInfo), ("subscriptions", SubscriptionInfo)]
)
def test_the_keys_of_listings_are_complete(listing: str, entry: type[msgspec.Struct]) -> None:
    [keys] = [cells[1] for cells in rows("## Listings, deletion, backup") if cells[0] == listing]
    assert re.findall(r"`(\w+)`", keys) == list(entry.__struct_fields__)


def test_the_table_of_calls_names_every_call_with_its_fields() -> None:
    documented = {cells[0].strip("`"): re.findall(r"`(\w+)`", cells[1]) for cells in rows("## Calls")}
    assert documented == {call.__struct_config__.tag: list(call.__struct_fields__) for call in ANSWERS}


def test_the_keys_of_what_calls_answer_are_complete() -> None:
    entries = "dead letter|group|message|move|receipt|reply|scheduled message|settings of a queue"
    documented = dict(re.findall(rf"^\| ({entries}) \| (.*) \|$", PAGE, re.MULTILINE))
    kinds = {
        "dead letter": DeadLetterInfo,
        "group": DeadLetterGroup,
        "message": MessageInfo,
        "move": MovedInfo,
        "receipt": Receipt,
        "reply": ReplyInfo,
        "settings of a queue": QueueSettings,
        "scheduled message": ScheduledInfo,
    }
    for entry, kind in kinds.items():
        assert re.findall(r"`(\w+)`", documented[entry]) == list(kind.__struct_fields__)


def test_the_table_of_errors_lists_every_code_with_what_the_registry_says() -> None:
    expected = [
        [
            f"`{code}`",
            error.__name__,
            "yes" if error.retryable else "no",
            "yes" if reconnects(code) else "no",
            " ".join((inspect.getdoc(error) or "").partition("\n\n")[0].split()),
        ]
        for code, error in REGISTRY.items()
    ]
    assert rows("## Error codes") == expected


def test_an_ack_as_documented_settles_the_delivery_of_the_example() -> None:
    frames = [decoded(example)[0] for example in examples()]
    [deliver] = [frame for frame in frames if isinstance(frame, Deliver)]
    [ack] = [frame for frame in frames if isinstance(frame, Ack)]
    first = deliver.parts[0].first_sequence
    last = first + sum(run.count for run in deliver.parts[0].runs) - 1
    assert ack.ranges == [(deliver.epoch, first, last)]
