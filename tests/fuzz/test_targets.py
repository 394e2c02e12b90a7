"""Every fuzz target holds for what was found once, for sound inputs, and for some thousand changed ones."""

import random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import mutated, regressions, seeds
from tests.fuzz.targets import TARGETS

_SLOW: Final = ("conversation", "data_file")


@pytest.mark.parametrize(("target", "data"), regressions())
def test_what_was_found_once_is_not_found_again(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_sound_inputs_and_none_pass(target: str) -> None:
    for data in (b"", *seeds(target)):
        TARGETS[target](data)


@pytest.mark.parametrize("target", [target for target in TARGETS if target not in _SLOW])
def test_changed_inputs_pass(target: str) -> None:
    sound = seeds(target)

    @settings(max_examples=200, deadline=None, database=None)
    @given(st.sampled_from(sound), st.integers(0, 2**32))
    def changed(seed: bytes, number: int) -> None:
        TARGETS[target](mutated(seed, random.Random(number)))

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.binary(max_size=300))
    def any_bytes(data: bytes) -> None:
        TARGETS[target](data)

    changed()
    any_bytes()


@settings(max_examples=60, deadline=None, database=None)
@given(st.binary(min_size=600, max_size=3000))
def test_conversations_of_any_frames_harm_nobody(data: bytes) -> None:
    TARGETS["conversation"](data)


@settings(max_examples=60, deadline=None, database=None)
@given(st.binary(min_size=40, max_size=80))
def test_any_damaged_file_is_opened_or_refused(data: bytes) -> None:
    TARGETS["data_file"](data)
