"""What must hold for any bytes found in a store: rows, and the records from which a broker is restored."""

import zlib
from struct import Struct
from typing import Final

import msgspec

from tests.fuzz.choices import Choices
from tidings.batch import StoredBatch
from tidings.broker import PREFIXES, queue_epochs, restore
from tidings.broker.broker import Broker
from tidings.broker.effects import StartCommit
from tidings.broker.inputs import Committed, StoreReady
from tidings.broker.invariants import Invariants
from tidings.errors import TidingsError
from tidings.store.sqlite.rows import StoredRow, Unreadable, decode_row
from tidings.transaction import Bounds

_NOW_MS: Final = 1_700_000_000_000
_NUMBERS: Final = Struct(">6q")


def row(data: bytes) -> None:
    """A row of any columns is a stored batch or unreadable, also when its checksum is right."""
    choices = Choices(data)
    right = choices.below(2)
    try:
        columns = msgspec.msgpack.decode(choices.rest())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if not isinstance(columns, list) or len(columns) != len(StoredRow._fields):
        return
    row = StoredRow._make(columns)
    if right:
        try:
            found = zlib.crc32(row.body, zlib.crc32(row.runs, zlib.crc32(_NUMBERS.pack(*columns[:6]))))
        except Exception:  # columns of any kind: what is wrong with them is for the decoder to find out
            return
        row = row._replace(checksum=found)
    try:
        stored = decode_row(row)
    except Unreadable as error:
        assert str(error)
        return
    assert isinstance(stored, StoredBatch)
    assert (stored.first_sequence, stored.last_sequence) == (row.first_sequence, row.last_sequence)


def records(data: bytes) -> None:
    """A broker is restored from any records, or they are damaged; what it then writes is the same to restore."""
    try:
        found = msgspec.msgpack.decode(data, type=dict[str, bytes])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    broker = _restored({key: value for key, value in found.items() if key.startswith(PREFIXES)})
    if broker is not None:
        _written_again(broker)


def _restored(found: dict[str, bytes]) -> Broker | None:
    try:
        bounds = {epoch: Bounds(1, 3, 30, _NOW_MS) for epoch in queue_epochs(found) if epoch % 2}
        broker = restore(found, bounds, _NOW_MS)
    except (msgspec.MsgspecError, ValueError, TidingsError):
        return None  # the node turns exactly these into StoreDamaged
    try:
        Invariants(broker).check()
    except AssertionError:
        return None  # records have no checksum: one that is damaged and still decodes is believed
    return broker


def _written_again(broker: Broker) -> None:
    invariants = Invariants(broker)
    state, kept = broker.state, dict[str, bytes]()
    for item in [state.counters, *state.epochs.values(), *state.clients.values(), *state.producers.values()]:
        state.changed(item)
    for subscription in state.subscriptions.values():
        state.changed(subscription)
        for cursor in subscription.cursors.values():
            state.changed_cursor(cursor)
    now_ms = _NOW_MS
    for _ in range(100):
        now_ms += 1_000
        for effect in broker.handle(StoreReady(), now_ms):
            if isinstance(effect, StartCommit):
                kept.update(effect.commit.puts)
                invariants.check()
                broker.handle(Committed(), now_ms)
                invariants.check()
        if not state.ledger.has_work():
            break
    again = restore(kept, {}, now_ms)
    Invariants(again).check()
    assert set(again.state.queues) == set(state.queues)
    assert set(again.state.subscriptions) == set(state.subscriptions)
    assert set(again.state.clients) == set(state.clients)
