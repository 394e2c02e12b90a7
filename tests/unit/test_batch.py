"""Batches are cut and joined as a plain list of messages would be, and validation lets nothing wrong through."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings import limits
from tidings.batch import Batch, Item, StoredBatch, decode_items, encode_item, join
from tidings.errors import PayloadTooLarge, ProtocolViolation
from tidings.model import BYTES, JSON, Flags, Run

# A small alphabet with one character of each length in UTF-8: tables of all of Unicode take seconds to build.
TEXT = st.text("aé事🚀", max_size=4)

Message = tuple[str, str, int, Item]  # event, content type, flags, item


def build(messages: list[Message]) -> Batch:
    runs: list[Run] = []
    body = b""
    for event, content_type, flags, item in messages:
        piece = encode_item(*item)
        last = runs[-1] if runs else None
        if last and (last.event, last.content_type, last.flags) == (event, content_type, flags):
            runs[-1] = Run(event, last.count + 1, last.size + len(piece), content_type, flags)
        else:
            runs.append(Run(event, 1, len(piece), content_type, flags))
        body += piece
    return Batch(runs, body)


def places_of(batch: Batch) -> list[Message | None]:
    places: list[Message | None] = []
    offset = 0
    for run in batch.runs:
        if run.event is None:
            assert run.size == 0
            places += [None] * run.count
            continue
        items = decode_items(run.count, run.flags, batch.body[offset : offset + run.size])
        places += [(run.event, run.content_type, run.flags, Item(*item)) for item in items]
        offset += run.size
    assert offset == len(batch.body)
    assert batch.count == len(places)
    return places


def is_canonical(batch: Batch) -> bool:
    """Holes are joined: no two neighbouring runs are cut out, and none is empty."""
    events = [run.event for run in batch.runs]
    neighbours = pairwise(events)
    return all(run.count > 0 for run in batch.runs) and not any(a is None and b is None for a, b in neighbours)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    flags = draw(st.integers(0, 7))
    short = TEXT.filter(bool)
    headers = st.dictionaries(TEXT, TEXT, min_size=1, max_size=3)
    item = Item(
        draw(st.binary(max_size=8)),
        draw(st.none() | short) if flags & Flags.IDS else None,
        draw(st.none() | short) if flags & Flags.KEYS else None,
        draw(st.none() | headers) if flags & Flags.HEADERS else None,
    )
    return draw(st.sampled_from("abc")), draw(st.sampled_from([JSON, BYTES])), flags, item


@st.composite
def cut_batches(draw: st.DrawFn) -> tuple[Batch, list[Message | None]]:
    """A batch, some of whose events may be cut out already, and its places."""
    listed = draw(st.lists(messages(), min_size=1, max_size=12))
    wanted = draw(st.sets(st.sampled_from([message[0] for message in listed]), min_size=1))
    batch = build(listed).select(wanted.__contains__)
    assert batch is not None
    return batch, [message if message[0] in wanted else None for message in listed]


def spans(places: set[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for place in sorted(places):
        if ranges and ranges[-1][1] == place - 1:
            ranges[-1] = (ranges[-1][0], place)
        else:
            ranges.append((place, place))
    return ranges


@given(st.lists(messages(), min_size=1, max_size=12))
def test_what_is_encoded_is_valid_and_decodes_to_the_same(listed: list[Message]) -> None:
    batch = build(listed)
    batch.validate()
    assert places_of(batch) == listed
    offsets = batch.offsets()
    items = [encode_item(*message[3]) for message in listed]
    assert [batch.body[a:b] for a, b in pairwise(offsets)] == items


@given(cut_batches())
def test_a_selection_has_the_wanted_events_in_their_places(cut: tuple[Batch, list[Message | None]]) -> None:
    batch, places = cut
    assert places_of(batch) == places
    assert is_canonical(batch)
    for wanted in ("", "a", "b", "ab", "abc"):
        expected = [place if place and place[0] in wanted else None for place in places]
        selected = batch.select(lambda event, wanted=wanted: event in wanted)  # type: ignore[misc]
        if selected is None:
            assert not any(expected)
        else:
            assert places_of(selected) == expected
            assert is_canonical(selected)


@given(cut_batches())
def test_present_names_the_places_that_are_not_cut_out(cut: tuple[Batch, list[Message | None]]) -> None:
    batch, places = cut
    assert batch.present() == spans({index for index, place in enumerate(places) if place})


@settings(max_examples=300)
@given(cut_batches(), st.data())
def test_keeping_places_cuts_out_all_others(cut: tuple[Batch, list[Message | None]], data: st.DataObject) -> None:
    batch, places = cut
    kept = data.draw(st.sets(st.integers(0, len(places) - 1)))
    expected = [place if index in kept else None for index, place in enumerate(places)]
    # Ranges may also touch each other, as a caller that collects acks gives them.
    ranges = spans(kept) if data.draw(st.booleans()) else [(place, place) for place in sorted(kept)]
    found = batch.keep(ranges)
    if found is None:
        assert not any(expected)
    else:
        assert places_of(found) == expected
        assert is_canonical(found)
        assert found.present() == spans({index for index, place in enumerate(expected) if place})


def test_keeping_every_set_of_places_of_small_batches() -> None:
    item = Item(b"1")
    for events in ("a", "aa", "ab", "aab", "abba", "aaaaa", "aabbc"):
        listed = [(event, JSON, 0, item._replace(payload=b"%d" % index)) for index, event in enumerate(events)]
        batch = build(listed)
        for bits in range(1 << len(events)):
            kept = {place for place in range(len(events)) if bits >> place & 1}
            found = batch.keep(spans(kept))
            places = [message if index in kept else None for index, message in enumerate(listed)]
            assert (places_of(found) if found else [None] * len(events)) == places


@given(st.lists(st.lists(messages(), min_size=1, max_size=5), min_size=1, max_size=5))
def test_joining_keeps_all_messages_in_order(parts: list[list[Message]]) -> None:
    joined = join(build(part) for part in parts)
    assert places_of(joined) == [message for part in parts for message in part]
    joined.validate()
    kinds = [(run.event, run.content_type, run.flags) for run in joined.runs]
    assert all(a != b for a, b in pairwise(kinds)), "neighbours of one kind are one run"


@given(cut_batches(), cut_batches())
def test_joining_keeps_holes(one: tuple[Batch, list[Message | None]], two: tuple[Batch, list[Message | None]]) -> None:
    assert places_of(join([one[0], two[0]])) == one[1] + two[1]


@given(st.lists(messages(), min_size=1, max_size=6), st.data())
def test_a_changed_body_is_refused_or_means_something_else(listed: list[Message], data: st.DataObject) -> None:
    batch = build(listed)
    at = data.draw(st.integers(0, len(batch.body) - 1))
    body = bytearray(batch.body)
    body[at] ^= data.draw(st.integers(1, 255))
    changed = Batch(batch.runs, bytes(body))
    try:
        changed.validate()
    except (ProtocolViolation, PayloadTooLarge):
        return
    # What is accepted can be cut and read without an error later.
    assert len(places_of(changed)) == len(listed)
    assert changed.offsets()[-1] == len(body)
    assert changed.keep([(0, 0)]) is not None


ITEM = encode_item(b"x", None, None, None)
TOO_MANY = limits.BATCH_COUNT_MAX + 1
RUN = Run("a", 2, 2 * len(ITEM))


@pytest.mark.parametrize(
    ("runs", "body"),
    [
        ([], b""),
        ([Run("a", 0, 0)], b""),
        ([Run("a", 0, 3)], ITEM),
        ([Run("a", -1, 3)], ITEM),
        ([Run("a", 1, len(ITEM))], ITEM * 2),
        ([Run("a", 3, 2 * len(ITEM))], ITEM * 2),
        ([Run("a", 2, 3 * len(ITEM))], ITEM * 2),
        ([Run("a", 2, 2 * len(ITEM))], ITEM * 2 + b"\x00"),
        ([Run("a", 2, 2 * len(ITEM))], ITEM * 2 + ITEM),
        ([Run("a", 2, 2 * len(ITEM))], (ITEM * 2)[:-1]),
        ([Run("a", 1, 2 * len(ITEM)), Run("b", 1, len(ITEM))], ITEM * 2),
        ([Run("a", 1, 3 * len(ITEM)), Run("b", 1, -len(ITEM))], ITEM * 2),
        ([Run("a", 3, 3 * len(ITEM)), Run("b", -1, len(ITEM))], ITEM * 2),
        ([Run("a", 2**32, len(ITEM)), Run("b", 2 - 2**32, len(ITEM))], ITEM * 2),
        ([Run("a", 1, len(ITEM) - 1), Run("b", 1, len(ITEM) + 1)], ITEM * 2),
        ([Run(None, 2, 2 * len(ITEM))], ITEM * 2),
        ([Run(None, 2, 0), RUN], ITEM * 2),
        ([Run("a", 2, 2 * len(ITEM), JSON, 8)], ITEM * 2),
        ([Run("a", 2, 2 * len(ITEM), JSON, -1)], ITEM * 2),
        ([Run("a", 1, len(ITEM))] * 1025, ITEM * 1025),
        ([Run("a", TOO_MANY, len(ITEM) * TOO_MANY)], ITEM * TOO_MANY),
    ],
)
def test_runs_that_do_not_describe_the_body_are_refused(runs: list[Run], body: bytes) -> None:
    Batch([RUN], ITEM * 2).validate()  # the sound one passes
    with pytest.raises(ProtocolViolation):
        Batch(runs, body).validate()


@pytest.mark.parametrize(
    ("item", "flags"),
    [
        ("payload", 7),
        (b"payload", 7),
        ([b"x"], 7),
        ([b"x", None, None], 7),
        ([b"x", None, None, None, None], 7),
        ([None, None, None, None], 7),
        (["text", None, None, None], 7),
        ([b"x", 1, None, None], 7),
        ([b"x", b"id", None, None], 7),
        ([b"x", "", None, None], 7),
        ([b"x", "i" * 256, None, None], 7),
        ([b"x", None, "", None], 7),
        ([b"x", None, "k" * 256, None], 7),
        ([b"x", None, None, {}], 7),
        ([b"x", None, None, {"a": msgspec.Raw(b"\xa1\xff")}], 7),
        ([b"x", msgspec.Raw(b"\xa1\xff"), None, None], 7),
        ([b"x", None, None, []], 7),
        ([b"x", None, None, {"a": 1}], 7),
        ([b"x", None, None, {1: "a"}], 7),
        ([b"x", None, None, {str(number): "" for number in range(65)}], 7),
        ([b"x", "id", None, None], 6),
        ([b"x", None, "key", None], 5),
        ([b"x", None, None, {"a": "b"}], 3),
        ({"payload": b"x"}, 7),
    ],
)
def test_a_message_of_the_wrong_shape_is_refused(item: object, flags: int) -> None:
    body = msgspec.msgpack.encode(item)
    with pytest.raises(ProtocolViolation):
        Batch([Run("a", 1, len(body), JSON, flags)], body).validate()


def test_payloads_and_headers_have_limits() -> None:
    largest = limits.PAYLOAD_SIZE_BYTES_MAX
    for payload_bytes, header_bytes, passes in (
        (largest, 0, True),
        (largest + 1, 0, False),
        (0, limits.HEADERS_SIZE_BYTES_MAX - 1, True),
        (0, limits.HEADERS_SIZE_BYTES_MAX, False),
    ):
        headers = {"h": "v" * header_bytes} if header_bytes else None
        body = encode_item(b"x" * payload_bytes, None, None, headers)
        batch = Batch([Run("a", 1, len(body), BYTES, Flags.HEADERS if headers else 0)], body)
        if passes:
            batch.validate()
        else:
            with pytest.raises(PayloadTooLarge):
                batch.validate()


def test_a_stored_batch_knows_its_last_sequence() -> None:
    stored = StoredBatch(10, 5, Batch([RUN], ITEM * 2))
    assert (stored.first_sequence, stored.last_sequence) == (10, 11)
    assert stored == StoredBatch(10, 5, Batch([RUN], ITEM * 2))
    assert stored != StoredBatch(11, 5, Batch([RUN], ITEM * 2))
