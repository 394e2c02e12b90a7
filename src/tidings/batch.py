"""The batch: messages back to back, described by runs, cut and joined without decoding.

A body is the messages of a batch one after another, each a MessagePack array of four:

    [payload: bin, id: str | nil, key: str | nil, headers: map of str to str | nil]

without anything around them. The runs beside it say how many messages, in how many bytes, share an event, a
content type and flags; `Flags` says which of the last three elements may be present. So a batch is stored and
sent on as it came, whole or run by run, and only where single messages must be cut out are their borders found.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, Final, NamedTuple

import msgspec

from tidings import limits
from tidings.errors import PayloadTooLarge, ProtocolViolation
from tidings.model import Flags, Run

_Short = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.ID_LENGTH_MAX)]
_Headers = Annotated[dict[str, str], msgspec.Meta(min_length=1, max_length=limits.HEADERS_MAX)]


class Item(NamedTuple):
    """One message of a body."""

    payload: bytes
    id: str | None = None
    key: str | None = None
    headers: dict[str, str] | None = None


def _decoder(flags: int) -> "msgspec.msgpack.Decoder[list[Item]]":
    # One decoder for each set of flags, so that msgspec checks in C that a run is what its flags claim.
    identity = _Short | None if flags & Flags.IDS else None
    key = _Short | None if flags & Flags.KEYS else None
    headers = _Headers | None if flags & Flags.HEADERS else None
    item = tuple.__class_getitem__((bytes, identity, key, headers))
    return msgspec.msgpack.Decoder(list.__class_getitem__(item))


_DECODERS: Final = [_decoder(flags) for flags in range(8)]
_RAWS: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_KEYS: Final = msgspec.msgpack.Decoder(list[tuple[msgspec.Raw, msgspec.Raw, str | None, msgspec.Raw]])
_HEADERS: Final = msgspec.msgpack.Decoder(list[tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw, dict[str, str] | None]])
_HEADERS_REMEMBERED_MAX: Final = 8  # runs: one transaction's of one queue, each decoded once for all who filter
_encode: Final = msgspec.msgpack.Encoder().encode
_ITEM_OVERHEAD_BYTES: Final = 9  # array header 1, bin32 header 5, three nils


def _array_header(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def encode_item(payload: bytes, id: str | None, key: str | None, headers: dict[str, str] | None) -> bytes:
    """Returns one message as it stands in a body."""
    return _encode((payload, id, key, headers))


def decode_items(count: int, flags: int, body: bytes | memoryview) -> list[Item]:
    """Returns the messages of one run as plain tuples shaped like `Item`.

    Raises:
        msgspec.MsgspecError: if the bytes are not `count` messages of this kind.
    """
    try:
        return _DECODERS[flags & 7].decode(_array_header(count) + body)
    except UnicodeDecodeError as error:
        # msgspec lets this one through as it is where a text is not UTF-8.
        raise msgspec.ValidationError(f"text that is not UTF-8: {error}") from None
    except OverflowError:
        # Of several runs one count can be negative and another too large for an array, and their sum a good one.
        raise msgspec.ValidationError(f"{count} messages are not a number that a run can have") from None


class Batch:
    """Runs and the body that they describe. Immutable."""

    __slots__ = ("_offsets", "body", "count", "runs")

    def __init__(self, runs: Sequence[Run], body: bytes) -> None:
        self.runs = runs
        self.body = body
        self.count = runs[0].count if len(runs) == 1 else sum(run.count for run in runs)
        self._offsets: list[int] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batch) and (list(self.runs), self.body) == (list(other.runs), other.body)

    __hash__ = None  # type: ignore[assignment]  # equal by content, never a key

    def __repr__(self) -> str:
        return f"Batch(count={self.count}, runs={len(self.runs)}, size={len(self.body)})"

    def validate(self) -> None:
        """Checks that the body is exactly what the runs claim: count, types, sizes, limits.

        Raises:
            ProtocolViolation: runs or body are malformed.
            PayloadTooLarge: a payload or headers exceed their limit.
        """
        if not 1 <= len(self.runs) <= limits.BATCH_RUNS_MAX:
            raise ProtocolViolation(f"a batch has 1 to {limits.BATCH_RUNS_MAX} runs, this one has {len(self.runs)}")
        if not 1 <= self.count <= limits.BATCH_COUNT_MAX:
            raise ProtocolViolation(f"a batch has 1 to {limits.BATCH_COUNT_MAX} messages, this one has {self.count}")
        offset = 0
        view = self.body if len(self.runs) == 1 else memoryview(self.body)
        for index, run in enumerate(self.runs):
            if len(run.content_type.encode()) > limits.NAME_SIZE_BYTES_MAX:
                raise ProtocolViolation(f"content type of run {index} exceeds {limits.NAME_SIZE_BYTES_MAX} bytes")
            if run.event is None or run.count < 1 or run.size < 1 or not 0 <= run.flags <= 7:
                raise ProtocolViolation(f"run {index} of the batch is malformed: {run}")
            if not 0 <= run.ttl_ms <= limits.TTL_MS_MAX:
                raise ProtocolViolation(f"run {index} has a ttl of {run.ttl_ms} ms; it can be 0 to {limits.TTL_MS_MAX}")
            piece = view if len(self.runs) == 1 and run.size == len(view) else view[offset : offset + run.size]
            offset += run.size
            try:
                items = decode_items(run.count, run.flags, piece)
            except msgspec.MsgspecError as error:
                raise ProtocolViolation(
                    f"the body of run {index} (event {run.event!r}) is not {run.count} messages: {error}"
                ) from None
            if run.size > limits.PAYLOAD_SIZE_BYTES_MAX or run.flags & Flags.HEADERS:
                _check_items(items)
        if offset != len(self.body):
            raise ProtocolViolation(f"the runs describe {offset} bytes, the body has {len(self.body)} bytes")

    def offsets(self) -> list[int]:
        """Returns where in the body each message starts, and where the last one ends (found once)."""
        if self._offsets is None:
            present = sum(run.count for run in self.runs if run.event is not None)
            raws = _RAWS.decode(_array_header(present) + self.body)
            self._offsets = [0, *accumulate(len(raw) for raw in raws)]
        return self._offsets

    def keys(self) -> list[str | None]:
        """Returns the key of each message, None for those without one and for those that are cut out."""
        found: list[str | None] = []
        view = memoryview(self.body)
        offset = 0
        for run in self.runs:
            if run.flags & Flags.KEYS:
                piece = view[offset : offset + run.size]
                found += [item[2] for item in _KEYS.decode(_array_header(run.count) + piece)]
            else:
                found += [None] * run.count
            offset += run.size
        return found

    def with_headers(self, wanted: Callable[[dict[str, str]], bool]) -> list[tuple[int, int]]:
        """Returns the places, 0-based and inclusive, of the messages whose headers are wanted; one without is not."""
        ranges: list[tuple[int, int]] = []
        place = offset = 0
        for run in self.runs:
            if run.event is not None and run.flags & Flags.HEADERS:
                for at, headers in enumerate(_headers(self.body, offset, run.size, run.count), place):
                    if headers and wanted(headers):
                        if ranges and ranges[-1][1] == at - 1:
                            ranges[-1] = (ranges[-1][0], at)
                        else:
                            ranges.append((at, at))
            place += run.count
            offset += run.size
        return ranges

    def select(self, wanted: Callable[[str], bool]) -> "Batch | None":
        """Returns the batch with runs of other events cut out; itself if all are wanted, None if none is."""
        keep = [run.event is not None and wanted(run.event) for run in self.runs]
        if all(keep):
            return self
        if not any(keep):
            return None
        runs: list[Run] = []
        parts: list[memoryview] = []
        view = memoryview(self.body)
        offset = 0
        for run, kept in zip(self.runs, keep, strict=True):
            if kept:
                runs.append(run)
                parts.append(view[offset : offset + run.size])
            else:
                _append_hole(runs, run.count)
            offset += run.size
        return Batch(runs, b"".join(parts))

    def head(self, count: int) -> "Batch":
        """Returns the batch with only its first `count` messages."""
        runs: list[Run] = []
        taken = present = size = 0
        for run in self.runs:
            left = count - taken
            if left <= 0:
                break
            if run.count > left:
                end = size if run.event is None else self.offsets()[present + left]
                run = Run(run.event, left, end - size, run.content_type, run.flags, run.ttl_ms)
            runs.append(run)
            taken += run.count
            present += 0 if run.event is None else run.count
            size += run.size
        return Batch(runs, self.body[:size])

    def keep(self, ranges: Sequence[tuple[int, int]]) -> "Batch | None":
        """Returns the batch with only the messages at these places, 0-based and inclusive, in order.

        The result still spans all places of the batch: what is cut out becomes runs without event.
        None if nothing is left.
        """
        runs: list[Run] = []
        parts: list[memoryview] = []
        view = memoryview(self.body)
        start = message = 0  # place of the run's first message, and its number among those present
        remaining = iter(ranges)
        low, high = next(remaining, (self.count, self.count))
        offsets: list[int] | None = None
        offset = 0
        for run in self.runs:
            end = start + run.count  # exclusive
            if run.event is None:
                _append_hole(runs, run.count)
                start = end
                while high < start:
                    low, high = next(remaining, (self.count, self.count))
                continue
            at = start
            while at < end:
                while high < at:
                    low, high = next(remaining, (self.count, self.count))
                if low >= end:
                    _append_hole(runs, end - at)
                    break
                if low > at:
                    _append_hole(runs, low - at)
                    at = low
                stop = min(high + 1, end)
                if at == start and stop == end:
                    parts.append(view[offset : offset + run.size])
                    runs.append(run)
                else:
                    offsets = offsets or self.offsets()
                    begin, finish = offsets[message + at - start], offsets[message + stop - start]
                    parts.append(view[begin:finish])
                    kind = run.content_type, run.flags, run.ttl_ms
                    runs.append(Run(run.event, stop - at, finish - begin, *kind))
                at = stop
            offset += run.size
            message += run.count
            start = end
        return Batch(runs, b"".join(parts)) if parts else None

    def present(self) -> list[tuple[int, int]]:
        """Returns the places, 0-based and inclusive, of the messages that are not cut out."""
        ranges: list[tuple[int, int]] = []
        at = 0
        for run in self.runs:
            if run.event is not None:
                if ranges and ranges[-1][1] == at - 1:
                    ranges[-1] = (ranges[-1][0], at + run.count - 1)
                else:
                    ranges.append((at, at + run.count - 1))
            at += run.count
        return ranges


@lru_cache(maxsize=_HEADERS_REMEMBERED_MAX)
def _headers(body: bytes, offset: int, size: int, count: int) -> list[dict[str, str] | None]:
    """Returns the headers of the messages of a run."""
    piece = memoryview(body)[offset : offset + size]
    return [item[3] for item in _HEADERS.decode(_array_header(count) + piece)]


def join(batches: Iterable[Batch]) -> Batch:
    """Returns one batch with the messages of all, in order; neighbouring runs of one kind become one."""
    batches = list(batches)
    if len(batches) == 1:
        return batches[0]
    runs: list[Run] = []
    for batch in batches:
        for run in batch.runs:
            last = runs[-1] if runs else None
            kind = run.content_type, run.flags, run.ttl_ms
            if last and (last.event, last.content_type, last.flags, last.ttl_ms) == (run.event, *kind):
                runs[-1] = Run(run.event, last.count + run.count, last.size + run.size, *kind)
            else:
                runs.append(run)
    return Batch(runs, b"".join([batch.body for batch in batches]))


class StoredBatch:
    """A batch with its place in a queue: the sequence of its first message and the time it was taken, in ms."""

    __slots__ = ("batch", "first_sequence", "last_sequence", "time_ms")

    def __init__(self, first_sequence: int, time_ms: int, batch: Batch) -> None:
        self.first_sequence = first_sequence
        self.last_sequence = first_sequence + batch.count - 1
        self.time_ms = time_ms
        self.batch = batch

    def before(self, sequence: int) -> "StoredBatch":
        """Returns the row with only its messages before a sequence, which is inside it."""
        return StoredBatch(self.first_sequence, self.time_ms, self.batch.head(sequence - self.first_sequence))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredBatch) and (self.first_sequence, self.time_ms, self.batch) == (
            other.first_sequence,
            other.time_ms,
            other.batch,
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content, never a key

    def __repr__(self) -> str:
        return f"StoredBatch({self.first_sequence}..{self.last_sequence}, {self.batch!r})"


def _append_hole(runs: list[Run], count: int) -> None:
    if runs and runs[-1].event is None:
        count += runs.pop().count
    runs.append(Run(None, count, 0))


def _check_items(items: list[Item]) -> None:
    for payload, _, _, headers in items:
        check_payload_size(len(payload))
        if headers:
            check_headers_size(headers)


def check_payload_size(size: int) -> None:
    """Raises PayloadTooLarge if a payload of `size` bytes exceeds the limit."""
    if size > limits.PAYLOAD_SIZE_BYTES_MAX:
        raise PayloadTooLarge(
            f"payload of {size} bytes exceeds the limit of {limits.PAYLOAD_SIZE_BYTES_MAX} bytes;"
            " put large data elsewhere and publish where it is"
        )


def check_headers_size(headers: dict[str, str]) -> None:
    """Raises PayloadTooLarge if headers exceed their limit in bytes."""
    size = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
    if size > limits.HEADERS_SIZE_BYTES_MAX:
        raise PayloadTooLarge(f"headers of {size} bytes exceed the limit of {limits.HEADERS_SIZE_BYTES_MAX} bytes")
