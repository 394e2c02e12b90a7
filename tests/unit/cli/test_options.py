"""What `--from` and `--header` mean."""

from datetime import UTC, datetime

import pytest

from tidings.cli.options import parse_headers, parse_start
from tidings.errors import InvalidOption


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("1", 1),
        ("42", 42),
        ("20260131", 20260131),
        ("2026-01-31T08:00:00Z", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("2026-01-31T08:00:00+02:00", datetime(2026, 1, 31, 6, tzinfo=UTC)),
        ("2026-01-31 08:00", datetime(2026, 1, 31, 8).astimezone()),
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
    ],
)
def test_a_start_is_a_word_a_sequence_or_a_time(text, start):
    parsed = parse_start(text)
    assert parsed == start
    assert type(parsed) is type(start)
    assert not isinstance(parsed, datetime) or parsed.tzinfo is not None


@pytest.mark.parametrize("text", ["0", "-1", "", "Earliest", "yesterday", "1.5", "2026-13-01", "\u0664\u0662"])
def test_another_start_is_refused(text):
    with pytest.raises(InvalidOption, match="earliest"):
        parse_start(text)


def test_headers_are_cut_at_the_first_equals_sign():
    assert parse_headers(("a=1", "b=x=y", "c=")) == {"a": "1", "b": "x=y", "c": ""}
    assert parse_headers(()) is None


@pytest.mark.parametrize("pairs", [("a",), ("=1",), ("a=1", "a=2")])
def test_wrong_headers_are_refused(pairs):
    with pytest.raises(InvalidOption, match="--header"):
        parse_headers(pairs)
