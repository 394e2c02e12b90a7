"""Rows as deliveries, decoded once for all subscriptions that are delivered the same row at about the same time."""

from typing import NamedTuple

from tidings import limits
from tidings.batch import StoredBatch, decode_items
from tidings.broker import effects


class Delivery(NamedTuple):
    """One message, delivered once. `time_ms` is UTC milliseconds since 1970."""

    queue: str
    epoch: int
    sequence: int
    event: str
    payload: bytes
    content_type: str
    id: str | None
    key: str | None
    headers: dict[str, str] | None
    time_ms: int
    attempt: int
    redriven: bool


class Decoded:
    """The rows that were decoded last."""

    def __init__(self) -> None:
        # With the row itself: it lives as long as its identity is a key.
        self._kept: dict[tuple[int, int], tuple[StoredBatch, list[Delivery]]] = {}

    def deliveries(self, deliver: effects.Deliver, row: StoredBatch) -> list[Delivery]:
        """Returns the deliveries of a row, which are not to be changed; equal ones are the same objects."""
        if deliver.attempts or deliver.redriven:
            return _decode(deliver, row)
        key = (id(row), deliver.epoch)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = (row, _decode(deliver, row))
            if len(self._kept) > limits.DECODED_ROWS_MAX:
                del self._kept[next(iter(self._kept))]
        return kept[1]


def _decode(deliver: effects.Deliver, row: StoredBatch) -> list[Delivery]:
    attempts = dict(deliver.attempts)
    view = memoryview(row.batch.body)
    deliveries: list[Delivery] = []
    sequence, offset = row.first_sequence, 0
    for run in row.batch.runs:
        if run.event is not None:
            items = decode_items(run.count, run.flags, view[offset : offset + run.size])
            offset += run.size
            for place, (payload, id, key, headers) in enumerate(items, sequence):
                deliveries.append(
                    Delivery(
                        deliver.queue,
                        deliver.epoch,
                        place,
                        run.event,
                        payload,
                        run.content_type,
                        id,
                        key,
                        headers,
                        row.time_ms,
                        attempts.get(place, 1),
                        deliver.redriven,
                    )
                )
        sequence += run.count
    return deliveries
