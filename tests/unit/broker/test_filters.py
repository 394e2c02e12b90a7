"""Filters: all small patterns against all small names, and what is refused."""

from itertools import product

import pytest

from tidings.broker.filters import Filter
from tidings.errors import InvalidFilter

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
