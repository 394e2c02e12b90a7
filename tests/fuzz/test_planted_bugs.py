"""Each fuzz target finds a bug of its kind when one is planted: a fuzzer that never found anything proves nothing."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

import tidings.broker.filters
import tidings.client.payloads
import tidings.config
import tidings.gateways.socketio.packets
import tidings.store.sqlite.rows
import tidings.store.sqlite.store
from tests.fuzz.corpus import mutated, regressions, seeds
from tests.fuzz.targets import TARGETS
from tidings.batch import Batch
from tidings.broker.catalog import Catalog
from tidings.broker.inputs import Unsubscribe
from tidings.broker.parcels import Parcel
from tidings.broker.queues import Queue
from tidings.broker.sessions import Session as BrokerSession
from tidings.broker.state import BrokerState
from tidings.client.decoding import Decoding
from tidings.client.session import Session
from tidings.errors import TidingsError
from tidings.gateways.native import NativePeer
from tidings.wire import Connection, Gap, Goodbye
from tidings.wire.codec import Reader

Plant = Callable[[pytest.MonkeyPatch], None]
_TRIES_MAX: Final = 2_000
_DECISIONS_BYTES: Final = 3_000


def any_header_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "_check", lambda *_: None)


def the_end_inside_a_frame_is_overlooked_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    receive_data = Reader.receive_data

    def forgetful(self: Reader, data: bytes) -> Iterator[Any]:
        yield from receive_data(self, data)
        if len(self._chunks) > 20:
            self._chunks = []

    monkeypatch.setattr(Reader, "receive_data", forgetful)


def farewells_are_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    close = Connection.close

    def twice(self: Connection, error: TidingsError | None = None) -> None:
        self.send(Goodbye())
        close(self, error)

    monkeypatch.setattr(Connection, "close", twice)


def batches_are_not_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batch, "validate", lambda self: None)


def a_gap_of_an_unknown_handle_is_not_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    def gap(self: Session, frame: Gap) -> None:
        self._subscribers[frame.handle].gap(frame)

    monkeypatch.setattr(Session, "_gap", gap)


def another_decoder_has_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoding, "decode", lambda self, data, content_type: json.loads(data))


def numbers_of_a_row_are_believed_to_be_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidings.store.sqlite.rows, "StructError", KeyError)


def queues_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = BrokerState.changed
    monkeypatch.setattr(
        BrokerState, "changed", lambda self, item: None if isinstance(item, Queue) else changed(self, item)
    )


def every_pattern_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidings.broker.filters, "_matches", lambda pattern, name: True)


def a_port_is_what_python_takes_for_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidings.config, "_parse_port", lambda url, text: int(text or 1))


def the_last_payload_of_many_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = tidings.client.payloads._pieces
    monkeypatch.setattr(
        tidings.client.payloads, "_pieces", lambda content_type, datas: pieces(content_type, [*datas][:-1])
    )


def an_unsubscribed_subscribe_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    unsubscribe = Catalog.unsubscribe

    def silent(self: Catalog, session: BrokerSession, input: Unsubscribe) -> None:
        subscriber = session.subscribers.get(input.handle)
        if subscriber is not None:
            subscriber.starting = False
        unsubscribe(self, session, input)

    monkeypatch.setattr(Catalog, "unsubscribe", silent)


def a_connection_stays_after_its_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativePeer, "_close", lambda self: None)


def every_third_page_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    send, pages = Parcel.send, [0]

    def lossy(self: Parcel) -> None:
        pages[0] += bool(self._rows)
        if pages[0] % 3 == 0:
            self._clear()
        send(self)

    monkeypatch.setattr(Parcel, "send", lossy)


def errors_of_sqlite_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidings.store.sqlite.store, "_unusable", lambda path, error: error)


def arguments_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def believed(kind: int, identity: int | None, text: str) -> list[msgspec.Raw]:
        return [msgspec.Raw(b'"e"'), msgspec.Raw(text.encode(errors="replace"))]

    monkeypatch.setattr(tidings.gateways.socketio.packets, "_arguments", believed)


@pytest.mark.parametrize(
    ("target", "plant"),
    [
        ("frames", any_header_is_believed),
        ("frames", the_end_inside_a_frame_is_overlooked_byte_by_byte),
        ("connection", farewells_are_said_twice),
        ("batch", batches_are_not_validated),
        ("client", a_gap_of_an_unknown_handle_is_not_expected),
        ("payload", another_decoder_has_other_errors),
        ("row", numbers_of_a_row_are_believed_to_be_numbers),
        ("records", queues_are_not_written),
        ("filters", every_pattern_matches),
        ("addresses", a_port_is_what_python_takes_for_a_number),
        ("payloads", the_last_payload_of_many_is_left_out),
        ("socketio", arguments_are_not_looked_at),
        ("conversation", an_unsubscribed_subscribe_is_not_answered),
        ("conversation", a_connection_stays_after_its_farewell),
        ("conversation", every_third_page_is_lost),
        ("data_file", errors_of_sqlite_are_passed_on),
    ],
)
def test_a_planted_bug_is_found(target: str, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = list(_inputs(target))
    for data in inputs[:5]:
        TARGETS[target](data)
    plant(monkeypatch)
    assert any(_fails(target, data) for data in inputs), f"{plant.__name__} was not found"


def _inputs(target: str) -> Iterator[bytes]:
    randomness = random.Random(1)
    sound = seeds(target)
    yield from (data for of, data in regressions() if of == target)
    for number in range(_TRIES_MAX):
        if target in ("conversation", "data_file"):
            yield randomness.randbytes(_DECISIONS_BYTES)
        else:
            yield mutated(sound[number % len(sound)], randomness)


def _fails(target: str, data: bytes) -> bool:
    try:
        TARGETS[target](data)
    except BaseException:  # whatever it is, nothing is documented to come out of a target
        return True
    return False
