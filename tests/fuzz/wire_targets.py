"""What must hold for any bytes that a peer sends: frames, connections, batches, and the client that gets them."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

from tests.fuzz.choices import Choices
from tidings import limits
from tidings.batch import Batch, StoredBatch, decode_items, encode_item, join
from tidings.client.decoding import Decoding
from tidings.client.session import Session
from tidings.client.subscriber import Options
from tidings.client.waiters import UNHEARD
from tidings.errors import InvalidPayload, PayloadTooLarge, ProtocolViolation, TidingsError
from tidings.model import JSON, Run
from tidings.store.sqlite.rows import decode_row, encode_row
from tidings.wire import Connection, Frame, Goodbye, Hello, Received, Role, Subscribed, Welcome
from tidings.wire.codec import Reader, encode
from tidings.wire.connection import State
from tidings.wire.frames import CLIENT_KINDS, SERVER_KINDS, VERSION

_BYTE_BY_BYTE_MAX = 512
_ENVELOPE_GROWTH_MAX = 16  # a run spelled short, in three fields, is that much shorter than with its defaults
_runs = msgspec.msgpack.Decoder(list[Run])


def frames(data: bytes) -> None:
    """A stream of bytes is the same frames, or the same violation, however it is cut; frames survive a round trip."""
    choices = Choices(data)
    kinds = CLIENT_KINDS if choices.below(2) else SERVER_KINDS
    step = 1 + choices.number(1)
    stream = choices.rest()
    got, error = _read(kinds, [stream])
    pieces = [stream[start : start + step] for start in range(0, len(stream), step)]
    assert _read(kinds, pieces) == (got, error), f"cut into {step} bytes it reads otherwise"
    if len(stream) <= _BYTE_BY_BYTE_MAX:
        assert _read(kinds, [bytes([byte]) for byte in stream]) == (got, error), "byte by byte it reads otherwise"
    if len(stream) * _ENVELOPE_GROWTH_MAX < limits.ENVELOPE_SIZE_BYTES_MAX:
        for each in got:
            again = encode(each.frame, len(each.body)) + each.body
            assert _read_one(kinds, again) == each, f"{each} is spelled as something else"


def _read(kinds: dict[int, type[Frame]], pieces: Sequence[bytes]) -> tuple[list[Received], str]:
    reader = Reader(kinds, limits.BATCH_BODY_SIZE_BYTES_MAX)
    got: list[Received] = []
    try:
        for piece in pieces:
            got.extend(reader.receive_data(piece))
        reader.receive_eof()
    except ProtocolViolation as error:
        return got, error.text
    return got, ""


def _read_one(kinds: dict[int, type[Frame]], data: bytes) -> Received:
    reader = Reader(kinds, limits.BATCH_BODY_SIZE_BYTES_MAX)
    # The first frame has a smaller bound, which is not what is asked here.
    list(reader.receive_data(encode(Goodbye())))
    [received] = reader.receive_data(data)
    return received


def connection(data: bytes) -> None:
    """A connection takes anything at any time: it closes with one farewell that says why, and then is silent."""
    choices = Choices(data)
    role, other = (Role.SERVER, SERVER_KINDS) if choices.below(2) else (Role.CLIENT, CLIENT_KINDS)
    wire = Connection(role, 0)
    now_ms, out = 0, b""
    while choices.left:
        action = choices.below(8)
        if action == 0:
            now_ms += choices.number(2)
            wire.tick(now_ms)
        elif action == 1 and choices.below(8) == 0:
            wire.receive_eof()
        else:
            size = choices.number(2) if action > 4 else choices.number(1)
            wire.receive_data(choices.take(size), now_ms)
        closed = wire.state is State.CLOSED
        for received in wire.frames_received():
            assert received.frame.__class__ in (CLIENT_KINDS if role is Role.SERVER else SERVER_KINDS).values()
        out += b"".join(wire.data_to_send(now_ms))
        wire.next_deadline_ms()
        if closed:
            wire.send(Goodbye())
            wire.receive_data(b"more", now_ms)
            assert wire.frames_received() == []
            assert wire.data_to_send(now_ms) == [], "it spoke after it was closed"
            break
    reader = Reader({**other, 1: Hello, 2: Welcome}, limits.DELIVERY_BODY_SIZE_BYTES_MAX)
    said = [received.frame for received in reader.receive_data(out)]
    reader.receive_eof()
    farewells = [frame for frame in said if isinstance(frame, Goodbye)]
    if isinstance(wire.error, ProtocolViolation) and wire.error.text.startswith("the connection ended"):
        assert farewells == []
    elif isinstance(wire.error, ProtocolViolation):
        assert [farewell.code for farewell in farewells] == ["protocol_violation"]
    assert len(farewells) <= 1
    assert not farewells or said[-1] is farewells[0]


def batch(data: bytes) -> None:
    """Runs and a body are a batch that can be cut, joined and stored without change, or are refused."""
    choices = Choices(data)
    spelled = choices.take(choices.number(2))
    try:
        runs = _runs.decode(spelled)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    batch = Batch(runs, choices.rest())
    try:
        batch.validate()
    except (ProtocolViolation, PayloadTooLarge) as error:
        assert error.text
        return
    items = list(_items(batch))
    assert len(items) == batch.count
    for item in items:
        assert decode_items(1, 7, encode_item(*item)) == [item]
    singles = [batch.keep([(place, place)]) for place in range(min(batch.count, 64))]
    for place, single in enumerate(singles):
        assert single is not None
        assert single.count == batch.count
        assert list(_items(single)) == [items[place]]
    middle = batch.count // 2
    halves = [batch.keep(part) for part in ([(0, middle - 1)] if middle else [], [(middle, batch.count - 1)])]
    assert [item for half in halves if half for item in _items(half)] == items
    assert list(_items(join([batch, batch]))) == items + items
    wanted = batch.select(lambda event: event == runs[0].event)
    assert wanted is not None
    assert wanted.count == batch.count
    wanted.offsets()
    stored = StoredBatch(7, 1, batch)
    assert decode_row(encode_row(3, 5, stored)) == stored


def _items(batch: Batch) -> Iterator[tuple[object, ...]]:
    offset = 0
    for run in batch.runs:
        if run.event is not None:
            yield from decode_items(run.count, run.flags, batch.body[offset : offset + run.size])
        offset += run.size


def client(data: bytes) -> None:
    """A client takes anything from a server: it goes on, or fails with an error that says what was wrong."""
    choices = Choices(data)
    session = Session(client_id="c", producer="p", take_over=False, agent="", wake=lambda: None)
    named = session.subscribe(Options(queue="q", event="#", name="n"), UNHEARD)
    session.subscribe(Options(queue="q", event="#", name=None), UNHEARD)
    session.publish("q", "e", JSON, 0, 1, encode_item(b"1", None, None, None), UNHEARD)
    session.connected(0)
    if choices.below(2):
        session.receive_data(encode(Welcome(VERSION, "t", "n", 10_000, "memory")), 0)
        session.flush()
        session.receive_data(encode(Subscribed(1, "n", True, True)), 0)
        session.receive_data(encode(Subscribed(2, "m", False, True, [(1, 0)])), 0)
    while choices.left and session.error is None:
        session.receive_data(choices.take(1 + choices.number(2)), 0)
        delivery = named.take()
        if delivery is not None:
            with suppress(ProtocolViolation):
                delivery.decode()
            named.ack(delivery.epoch, delivery.part.first_sequence, delivery.last_sequence)
        session.flush()
        session.data_to_send(0)
        if session.connection_ended:
            session.disconnected()
            session.connected(0)
    session.reports()
    session.disconnected()
    session.connected(0)
    session.receive_data(encode(Welcome(VERSION, "t", "n", 10_000, "memory")), 0)
    session.flush()
    assert session.error is None or isinstance(session.error, TidingsError)


def payload(data: bytes) -> None:
    """A payload is decoded, or not, with the errors that a message turns into InvalidPayload."""
    choices = Choices(data)
    kind = choices.pick([None, dict[str, int], list[str], Run, int | None])
    content_type = choices.pick([JSON, "text/plain", ""])
    try:
        Decoding(kind).decode(choices.rest(), content_type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        InvalidPayload(str(error))
