"""Filters: all small patterns against all small names, and what is refused."""

from itertools import product

import pytest

from tests.unit.broker.harness import batch_of
from tidings import limits
from tidings.broker.filters import Filter
from tidings.errors import InvalidFilter
from tidings.model import HeaderFilter, parse_header_filters

TOKENS = ("a", "b")
NAMES = [".".join(tokens) for length in (1, 2, 3) for tokens in product(TOKENS, repeat=length)]
PATTERNS = [
    ".".join(tokens)
    for length in (1, 2, 3)
    for tokens in product((*TOKENS, "*", "#"), repeat=length)
    if "#" not in tokens[:-1]
]


def matches(pattern: list[str], name: list[str]) -> bool:
    """The rule of matching, said as simply as possible."""
    if not pattern:
        return not name
    if pattern == ["#"]:
        return True
    return bool(name) and pattern[0] in ("*", name[0]) and matches(pattern[1:], name[1:])


def test_every_small_pattern_agrees_with_the_plain_rule_on_every_small_name() -> None:
    for pattern, name in product(PATTERNS, NAMES):
        expected = matches(pattern.split("."), name.split("."))
        assert Filter("orders", pattern).wants_event(name) == expected, (pattern, name)
        assert Filter(pattern, "#").wants_queue(name) == expected, (pattern, name)


def test_a_last_hash_stands_for_no_token_too() -> None:
    assert Filter("orders", "user.#").wants_event("user")


@pytest.mark.parametrize("pattern", ["#", "*", "$*", "$#", "*.#"])
def test_no_wildcard_selects_a_system_queue(pattern: str) -> None:
    try:
        chosen = Filter(pattern, "#")
    except InvalidFilter:
        return
    assert not chosen.wants_queue("$presence")


def test_a_system_queue_is_selected_by_its_name() -> None:
    assert Filter("$presence", "#").wants_queue("$presence")


@pytest.mark.parametrize(
    "pattern", ["", ".", "a.", ".a", "a..b", "#.a", "a.#.b", "a*", "*a", "a b", "a/b", "##", "a\n"]
)
def test_malformed_patterns_are_refused_with_the_pattern_in_the_text(pattern: str) -> None:
    for queue, event in ((pattern, "#"), ("orders", pattern)):
        with pytest.raises(InvalidFilter) as caught:
            Filter(queue, event)
        assert repr(pattern) in str(caught.value)
        assert "'*'" in str(caught.value)


def test_an_unknown_system_queue_is_refused() -> None:
    with pytest.raises(InvalidFilter, match=r"\$presence"):
        Filter("$secrets", "#")


def test_only_a_queue_pattern_without_wildcards_is_literal() -> None:
    assert Filter("a.b", "*").literal
    assert not Filter("a.*", "b").literal
    assert not Filter("a.#", "b").literal


def test_filters_are_equal_by_both_patterns() -> None:
    assert Filter("a", "b") == Filter("a", "b")
    assert Filter("a", "b") != Filter("a", "c")
    assert hash(Filter("a", "b")) == hash(Filter("a", "b"))
    assert str(Filter("a", "b.#")) == "a/b.#"


# --- headers ---

TEXTS = ("", "e", "eu", "eu-1", "us")
HEADERS: list[dict[str, str] | None] = [
    None,
    *[{"region": value} for value in TEXTS],
    *[{"region": value, "tier": "gold"} for value in TEXTS],
    {"tier": "gold"},
]
WANTED = [
    HeaderFilter("region", values, prefixes)
    for values in ((), ("eu",), ("us", "eu"), ("",))
    for prefixes in ((), ("e",), ("eu-", "u"), ("",))
    if values or prefixes
]


def wants(wanted: HeaderFilter, headers: dict[str, str] | None) -> bool:
    """The rule of headers, said as simply as possible."""
    if not headers or wanted.name not in headers:
        return False
    value = headers[wanted.name]
    return any(value == text for text in wanted.values) or any(value[: len(text)] == text for text in wanted.prefixes)


@pytest.mark.parametrize("event", ["#", "a", "a.*"])
def test_every_small_header_filter_selects_what_the_plain_rule_says(event: str) -> None:
    batch = batch_of(*["a", "b", "a.x"] * len(HEADERS), headers=[headers for headers in HEADERS for _ in range(3)])
    placed = [(name, headers) for headers in HEADERS for name in ("a", "b", "a.x")]
    tier = HeaderFilter("tier", ("gold",))
    for conditions in [[wanted] for wanted in WANTED] + [[wanted, tier] for wanted in WANTED] + [[tier]]:
        chosen = Filter("orders", event, conditions)
        expected = [
            place
            for place, (name, headers) in enumerate(placed)
            if Filter("orders", event).wants_event(name) and all(wants(wanted, headers) for wanted in conditions)
        ]
        selected = chosen.select(batch)
        found = [place for low, high in (selected.present() if selected else []) for place in range(low, high + 1)]
        assert found == expected, (event, conditions)
        assert chosen.wants_any(batch) == bool(expected)


def test_a_batch_of_which_everything_is_wanted_is_not_cut() -> None:
    batch = batch_of("a", "a", "b", headers=[{"region": "eu"}] * 3)
    assert Filter("orders", "#", [HeaderFilter("region", ("eu",))]).select(batch) is batch


def test_messages_without_headers_are_not_decoded_and_not_wanted() -> None:
    batch = batch_of("a", "b")
    broken = type(batch)(batch.runs, b"\xc1" * len(batch.body))
    chosen = Filter("orders", "#", [HeaderFilter("region", (), ("",))])
    assert chosen.select(broken) is None
    assert not chosen.wants_any(broken)


def test_filters_that_say_the_same_of_headers_are_equal() -> None:
    region, tier = HeaderFilter("region", ("us", "eu", "us"), ("b", "a")), HeaderFilter("tier", ("gold",))
    same = HeaderFilter("region", ("eu", "us"), ("a", "b"))
    assert Filter("a", "b", [region, tier]) == Filter("a", "b", [tier, same])
    assert hash(Filter("a", "b", [region, tier])) == hash(Filter("a", "b", [tier, same]))
    assert Filter("a", "b", [region]) != Filter("a", "b", [tier])
    assert Filter("a", "b", [region]) != Filter("a", "b")
    assert Filter("a", "b", [HeaderFilter("x", ("eu-1", "us"), ("eu",))]) == Filter(
        "a", "b", [HeaderFilter("x", ("us",), ("eu",))]
    )
    assert Filter("a", "b", [HeaderFilter("x", ("eu",), ("", "u"))]) == Filter("a", "b", [HeaderFilter("x", (), ("",))])


def test_a_filter_shows_what_it_wants_of_headers() -> None:
    headers = [HeaderFilter("tier", ("gold",), ("s",)), HeaderFilter("trace", (), ("",))]
    assert str(Filter("orders", "#", headers)) == "orders/#[tier=gold|tier^=s][trace]"


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ([HeaderFilter("region")], "prefix ''"),
        ([HeaderFilter("", ("eu",))], "give a name"),
        ([HeaderFilter("region", ("eu",)), HeaderFilter("region", ("us",))], "named twice"),
        ([HeaderFilter(str(number), ("x",)) for number in range(limits.HEADERS_MAX + 1)], str(limits.HEADERS_MAX)),
        ([HeaderFilter("region", ("x" * limits.HEADERS_SIZE_BYTES_MAX,))], str(limits.HEADERS_SIZE_BYTES_MAX + 6)),
        ([HeaderFilter("region", ("\ud800",))], "UTF-8"),
    ],
)
def test_what_cannot_be_wanted_of_headers_is_refused(headers: list[HeaderFilter], word: str) -> None:
    with pytest.raises(InvalidFilter, match=word):
        Filter("orders", "#", headers)


def test_header_filters_are_read_from_text() -> None:
    texts = ["region=eu", "region^=us-", "trace", "region=ap", "path=a=b", "^=x=y", "empty="]
    with pytest.raises(InvalidFilter, match="NAME=VALUE"):
        parse_header_filters(texts)
    texts.remove("^=x=y")
    assert parse_header_filters(texts) == [
        HeaderFilter("region", ("eu", "ap"), ("us-",)),
        HeaderFilter("trace", (), ("",)),
        HeaderFilter("path", ("a=b",)),
        HeaderFilter("empty", ("",)),
    ]
