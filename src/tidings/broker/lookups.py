"""Lookups: what rules ask of the store, and how they go on once they are answered.

A rule that needs messages or records orders `ReadRows`, `ReadRecords`, `ListRecords`, `Locate` or `Sample` under a
ticket; what it wants to do with the answer waits here. Whoever asks must look again whether the question still matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tidings.batch import StoredBatch
from tidings.broker.effects import ListRecords, Locate, ReadRecords, ReadRows, Sample
from tidings.transaction import Damage, Row

Rows: TypeAlias = list[StoredBatch | Damage]
Records: TypeAlias = list[bytes | None]
Listed: TypeAlias = list[tuple[str, bytes]]


class Lookups:
    """Questions under way, by ticket."""

    def __init__(self) -> None:
        self._next_ticket = 1
        self._rows: dict[int, Callable[[Rows], None]] = {}
        self._records: dict[int, Callable[[Records], None]] = {}
        self._listings: dict[int, Callable[[Listed], None]] = {}
        self._places: dict[int, Callable[[int | None], None]] = {}
        self._samples: dict[int, Callable[[list[Row]], None]] = {}

    def rows(self, epoch: int, after: int, limit_bytes: int, then: Callable[[Rows], None]) -> ReadRows:
        """Asks for the rows of a queue from after a sequence on."""
        self._rows[ticket := self._take_ticket()] = then
        return ReadRows(ticket, epoch, after, limit_bytes)

    def records(self, keys: list[str], then: Callable[[Records], None]) -> ReadRecords:
        """Asks for records; the answer has them in the order of `keys`."""
        self._records[ticket := self._take_ticket()] = then
        return ReadRecords(ticket, keys)

    def listing(self, prefix: str, after: str, limit_bytes: int, then: Callable[[Listed], None]) -> ListRecords:
        """Asks for records by the beginning of their keys, from after a key on."""
        self._listings[ticket := self._take_ticket()] = then
        return ListRecords(ticket, prefix, after, limit_bytes)

    def sequence_at(self, epoch: int, time_ms: int, then: Callable[[int | None], None]) -> Locate:
        """Asks for the first sequence of a queue at or after a time; None is the answer beyond its end."""
        self._places[ticket := self._take_ticket()] = then
        return Locate(ticket, epoch, time_ms)

    def sample(self, epoch: int, to_sequence: int, then: Callable[[list[Row]], None]) -> Sample:
        """Asks for rows spread over a queue, up to the one that holds a sequence, without their bodies."""
        self._samples[ticket := self._take_ticket()] = then
        return Sample(ticket, epoch, to_sequence)

    def rows_read(self, ticket: int, rows: Rows) -> None:
        """Goes on with rows."""
        self._rows.pop(ticket)(rows)

    def records_read(self, ticket: int, records: Records) -> None:
        """Goes on with records."""
        self._records.pop(ticket)(records)

    def records_listed(self, ticket: int, records: Listed) -> None:
        """Goes on with a listing."""
        self._listings.pop(ticket)(records)

    def located(self, ticket: int, sequence: int | None) -> None:
        """Goes on with a sequence."""
        self._places.pop(ticket)(sequence)

    def sampled(self, ticket: int, rows: list[Row]) -> None:
        """Goes on with rows without bodies."""
        self._samples.pop(ticket)(rows)

    def _take_ticket(self) -> int:
        self._next_ticket += 1
        return self._next_ticket - 1
