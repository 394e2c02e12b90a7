"""Drafts: single messages become valid batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import limits
from tidings.batch import decode_items
from tidings.errors import InvalidName, InvalidOption, PayloadTooLarge
from tidings.node.drafts import Draft, batches

TEXTS = st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
DRAFTS = st.builds(
    Draft,
    st.sampled_from(["a", "b.c"]),
    st.binary(max_size=20),
    st.sampled_from(["application/json", "text/plain"]),
    TEXTS,
    TEXTS,
    st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    st.integers(0, 3),
)


@given(st.lists(DRAFTS, max_size=20))
def test_a_batch_says_what_its_drafts_said(drafts):
    made = list(batches(drafts))
    assert len(made) <= 1
    found = []
    for batch in made:
        batch.validate()
        offset = 0
        for run in batch.runs:
            items = decode_items(run.count, run.flags, batch.body[offset : offset + run.size])
            found += [Draft(run.event, item[0], run.content_type, *item[1:], run.ttl_ms) for item in items]
            offset += run.size
    assert found == [draft._replace(headers=draft.headers or None) for draft in drafts]


def test_more_than_fits_becomes_several_batches_in_order():
    size = limits.BATCH_SIZE_BYTES_MAX // 2
    large = list(batches([Draft("a", bytes([number]) * size) for number in range(3)]))
    assert [batch.count for batch in large] == [1, 1, 1]
    many = list(batches([Draft("a", b"")] * (limits.BATCH_COUNT_MAX + 1)))
    assert [batch.count for batch in many] == [limits.BATCH_COUNT_MAX, 1]
    mixed = list(batches([Draft("ab"[number % 2], b"") for number in range(limits.BATCH_RUNS_MAX + 1)]))
    assert [len(batch.runs) for batch in mixed] == [limits.BATCH_RUNS_MAX, 1]
    for batch in (*large, *many, *mixed):
        batch.validate()


@pytest.mark.parametrize(
    ("draft", "error", "advice"),
    [
        (Draft("a b", b""), InvalidName, "white space"),
        (Draft("a", b"x" * (limits.PAYLOAD_SIZE_BYTES_MAX + 1)), PayloadTooLarge, "1048577"),
        (Draft("a", b"", id=""), InvalidOption, "id of 0 characters"),
        (Draft("a", b"", key="k" * 256), InvalidOption, "key of 256 characters"),
        (Draft("a", b"", "x" * 256), InvalidOption, "content type of 256"),
        (Draft("a", b"", "é"), InvalidOption, "ASCII"),
        (Draft("a", b"", id="\ud800"), InvalidOption, "UTF-8"),
        (Draft("a", b"", headers={"h": "\ud800"}), InvalidOption, "UTF-8"),
        (Draft("a", b"", headers={str(n): "" for n in range(65)}), InvalidOption, "at most 64"),
        (Draft("a", b"", headers={"h": "v" * 9000}), PayloadTooLarge, "9001"),
    ],
)
def test_what_can_never_be_a_message_is_refused_before_anything_is_made(draft, error, advice):
    with pytest.raises(error, match=advice):
        next(batches([Draft("a", b""), draft]))
