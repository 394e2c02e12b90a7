"""Messages as a door takes them in one by one, and the batches that they become."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from tidings import limits
from tidings.batch import Batch, check_headers_size, check_payload_size, encode_item
from tidings.errors import InvalidOption
from tidings.model import JSON, Flags, Run, check_name


class Draft(NamedTuple):
    """A message that is to be published."""

    event: str
    payload: bytes
    content_type: str = JSON
    id: str | None = None
    key: str | None = None
    headers: dict[str, str] | None = None
    ttl_ms: int = 0


def batches(drafts: Iterable[Draft]) -> Iterator[Batch]:
    """Yields drafts joined into valid batches, in order; all are checked before the first is yielded.

    Raises:
        InvalidName: an event's name breaks the rules.
        InvalidOption: an id, key, content type or header is not a text of the right length, or a ttl is out of range.
        PayloadTooLarge: a payload, or the headers beside it, exceed their limit.
    """
    pieces = [_encode(draft) for draft in drafts]
    group: list[_Piece] = []
    size = runs = 0
    for piece in pieces:
        runs += not group or group[-1].kind != piece.kind
        full = size + len(piece.data) > limits.BATCH_SIZE_BYTES_MAX or len(group) >= limits.BATCH_COUNT_MAX
        if group and (full or runs > limits.BATCH_RUNS_MAX):
            yield _join(group)
            group, size, runs = [], 0, 1
        group.append(piece)
        size += len(piece.data)
    if group:
        yield _join(group)


class _Piece(NamedTuple):
    """An encoded message, and what its run says of it: event, content type, flags and ttl."""

    kind: tuple[str, str, int, int]
    data: bytes


def _encode(draft: Draft) -> _Piece:
    check_name(draft.event, "event")
    check_payload_size(len(draft.payload))
    _check_text(draft.content_type, "content type")
    if not 0 <= draft.ttl_ms <= limits.TTL_MS_MAX:
        raise InvalidOption(f"a ttl of {draft.ttl_ms} ms; it can be 0 (none) to {limits.TTL_MS_MAX}")
    flags = 0
    if draft.id is not None:
        _check_text(draft.id, "id")
        flags |= Flags.IDS
    if draft.key is not None:
        _check_text(draft.key, "key")
        flags |= Flags.KEYS
    if draft.headers:
        if len(draft.headers) > limits.HEADERS_MAX:
            raise InvalidOption(f"{len(draft.headers)} headers; a message has at most {limits.HEADERS_MAX}")
        flags |= Flags.HEADERS
    try:
        if draft.headers:
            check_headers_size(draft.headers)
        data = encode_item(draft.payload, draft.id, draft.key, draft.headers or None)
    except UnicodeEncodeError as error:
        raise InvalidOption(f"id, key and headers must be valid UTF-8: {error}") from None
    return _Piece((draft.event, draft.content_type, int(flags), draft.ttl_ms), data)


def _check_text(text: str, what: str) -> None:
    if not 1 <= len(text) <= limits.ID_LENGTH_MAX:
        raise InvalidOption(f"{what} of {len(text)} characters; it has 1 to {limits.ID_LENGTH_MAX}")
    if what == "content type" and not text.isascii():
        raise InvalidOption(f"content type {text!r} is not ASCII")


def _join(pieces: list[_Piece]) -> Batch:
    runs: list[Run] = []
    for (event, content_type, flags, ttl_ms), group in groupby(pieces, lambda piece: piece.kind):
        sizes = [len(piece.data) for piece in group]
        runs.append(Run(event, len(sizes), sum(sizes), content_type, flags, ttl_ms))
    return Batch(runs, b"".join([piece.data for piece in pieces]))
