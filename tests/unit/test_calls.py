"""Calls: what is spelled is what is read, and what is not known is refused instead of half done."""

import typing

import msgspec
import pytest

from tidings import calls
from tidings.calls import ANSWERS, Call, ConfigureSubscription, Redrive, decode_call
from tidings.errors import InvalidOption

KINDS: tuple[type[msgspec.Struct], ...] = typing.get_args(Call)


def test_every_call_has_its_answer_and_its_own_tag() -> None:
    assert set(ANSWERS) == set(KINDS)
    assert len({kind.__struct_config__.tag for kind in KINDS}) == len(KINDS)
    structs = {value for value in vars(calls).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)}
    spelled = {kind for kind in structs if kind.__struct_config__.tag_field == "call" and kind.__struct_config__.tag}
    assert spelled - {calls._Call} == set(KINDS), "a call that is in no union cannot be made"


def test_what_is_left_out_is_unset_and_what_is_null_is_none() -> None:
    call = ConfigureSubscription(name="billing", attempts_max=3, expires_after_ms=None)
    decoded = decode_call(msgspec.msgpack.encode(call))
    assert decoded == call
    assert isinstance(decoded, ConfigureSubscription)
    assert decoded.expires_after_ms is None
    assert decoded.backoff_min_ms is msgspec.UNSET


@pytest.mark.parametrize(
    ("spelled", "words"),
    [
        ({"call": "redrive", "subscription": "billing", "speed": 9}, "speed"),
        ({"call": "redrive"}, "subscription"),
        ({"call": "redrive", "subscription": 7}, "str"),
        ({"call": "fly"}, "fly"),
        ({"subscription": "billing"}, "call"),
        ([1, 2], "object"),
    ],
)
def test_a_call_that_is_not_known_is_refused_with_what_is_wrong(spelled: object, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        decode_call(msgspec.msgpack.encode(spelled))


@pytest.mark.parametrize("cut", range(20))
def test_a_call_that_is_cut_off_is_refused(cut: int) -> None:
    body = msgspec.msgpack.encode(Redrive(subscription="billing"))
    with pytest.raises(InvalidOption, match="malformed"):
        decode_call(body[:cut])


def test_text_that_is_not_utf8_is_refused() -> None:
    body = msgspec.msgpack.encode(Redrive(subscription="AAAA")).replace(b"AAAA", b"\xff\xfe\xff\xfe")
    with pytest.raises(InvalidOption, match="malformed"):
        decode_call(body)
