"""Spellings: made once for each delivery and form, and bounded."""

import pytest

from tidings import limits
from tidings.gateways.spellings import Spellings
from tidings.node import Delivery


def delivery(sequence: int, payload: bytes = b"1") -> Delivery:
    return Delivery("orders", 1, sequence, "created", payload, "application/json", None, None, None, 0, 1, False)


def spellings() -> tuple[Spellings[str], list[tuple[int, str]]]:
    made: list[tuple[int, str]] = []

    def spell(delivery: Delivery, form: str) -> str:
        made.append((delivery.sequence, form))
        return f"{delivery.sequence}{form}"

    return Spellings(spell), made


def test_the_same_delivery_is_spelled_once_in_each_form() -> None:
    kept, made = spellings()
    first, second = delivery(1), delivery(2)
    found = [kept.of(each, form) for _ in range(3) for each in (first, second) for form in ("", "a", "b")]
    assert found == ["1", "1a", "1b", "2", "2a", "2b"] * 3
    assert made == [(1, ""), (1, "a"), (1, "b"), (2, ""), (2, "a"), (2, "b")]


def test_an_equal_delivery_that_is_another_object_is_not_mistaken_for_one_that_is_gone() -> None:
    kept, made = spellings()
    for sequence in range(1_000):
        assert kept.of(delivery(sequence)) == str(sequence), (
            "identities are used again, deliveries that are kept are not"
        )
    assert len(made) == 1_000


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SPELLINGS_BYTES_MAX", 10_000)
    kept, made = spellings()
    large = [delivery(sequence, b"x" * 2_000) for sequence in range(4)]
    for each in [*large, large[3], large[2], large[0]]:
        kept.of(each)
    assert made == [(0, ""), (1, ""), (2, ""), (3, ""), (0, "")]
    assert kept.of(delivery(9, b"x" * 20_000)) == "9", "one that is larger than all that is kept"
    assert kept.of(delivery(10)) == "10"
