"""Rows: a stored batch as it stands in the data file, with the checksum that finds damage."""

import zlib
from collections.abc import Sequence
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

import msgspec

from tidings.batch import Batch, StoredBatch
from tidings.model import Run

COLUMNS: Final = "queue, first_sequence, last_sequence, time_ms, offset_bytes, size_bytes, checksum, runs, body"

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_runs: Final = msgspec.msgpack.Decoder(list[Run]).decode
_NUMBERS: Final = Struct(">6q")
"""What the checksum begins with: the numbers of a row, in the order of its columns, 8 bytes each."""


class StoredRow(NamedTuple):
    """One row of the table, all columns in order."""

    queue: int
    first_sequence: int
    last_sequence: int
    time_ms: int
    offset_bytes: int
    size_bytes: int
    checksum: int
    runs: bytes
    body: bytes


class Unreadable(Exception):
    """A row is not what was written; the text says how it is known."""


def encode_row(queue: int, offset_bytes: int, stored: StoredBatch) -> StoredRow:
    """Returns the row of a batch that starts `offset_bytes` after the queue's first body."""
    runs, body = _encode(stored.batch.runs), stored.batch.body
    numbers = (queue, stored.first_sequence, stored.last_sequence, stored.time_ms, offset_bytes, len(body))
    return StoredRow(*numbers, _checksum(numbers, runs, body), runs, body)


def decode_row(row: StoredRow) -> StoredBatch:
    """Returns the batch of a row.

    Raises:
        Unreadable: the row is not what was written.
    """
    try:
        found = _checksum(row[:6], row.runs, row.body)
    except (TypeError, StructError) as error:  # a damaged row can have values of any kind in any column
        raise Unreadable(f"columns of the wrong kind ({error})") from None
    if found != row.checksum:
        raise Unreadable(f"its checksum is {found}, {row.checksum} was written")
    try:
        batch = Batch(_decode_runs(row.runs), row.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreadable(f"runs that cannot be decoded ({error})") from None
    if batch.count != row.last_sequence - row.first_sequence + 1:
        raise Unreadable(f"{batch.count} messages in sequences {row.first_sequence} to {row.last_sequence}")
    return StoredBatch(row.first_sequence, row.time_ms, batch)


def _checksum(numbers: Sequence[int], runs: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(runs, zlib.crc32(_NUMBERS.pack(*numbers))))
