"""Deliveries, gaps, errors and positions as JSON."""

import base64
import json

import msgspec
import pytest

from tidings import limits
from tidings.broker.effects import Gap
from tidings.errors import InvalidOption, StoreUnavailable
from tidings.gateways.messages import (
    error_entry,
    gap_entry,
    iso_time,
    message_entry,
    parse_position,
    payload_entry,
    ranges_of,
    spell_position,
)
from tidings.model import reading_of
from tidings.node import Delivery


def shown(payload: bytes = b'{"id":7}', content_type: str = "application/json", **fields: object) -> dict[str, object]:
    plain = Delivery(
        "orders", 26, 5, "created", payload, content_type, None, None, None, 1_700_000_000_123, 1, redriven=False
    )
    return json.loads(msgspec.json.encode(message_entry(plain._replace(**fields))))  # type: ignore[no-any-return]


def test_a_message_has_its_place_time_and_attempt() -> None:
    assert shown() == {
        "queue": "orders",
        "event": "created",
        "sequence": 5,
        "epoch": 26,
        "position": "1a-5",
        "time": "2023-11-14T22:13:20.123Z",
        "attempt": 1,
        "payload": {"id": 7},
    }


def test_id_key_headers_and_redriven_are_there_if_there_are_any() -> None:
    entry = shown(id="a", key="b", headers={"trace": "x"}, redriven=True)
    assert (entry["id"], entry["key"], entry["headers"], entry["redriven"]) == ("a", "b", {"trace": "x"}, True)


def test_the_epoch_of_a_moved_reader_is_in_the_position_only() -> None:
    entry = shown(epoch=reading_of(26, 3))
    assert entry["epoch"] == 26
    assert parse_position(str(entry["position"])) == {reading_of(26, 3): 5}


@pytest.mark.parametrize(
    ("content_type", "payload", "expected"),
    [
        ("application/json", b"1.50", {"payload": 1.5}),
        ("application/json", b"12345678901234567890123", {"payload": 12345678901234567890123}),
        ("application/json", b'{\r\n "a": "x\\ny"}', {"payload": {"a": "x\ny"}}),
        ("Application/JSON; charset=utf-8", b"{}", {"payload": {}, "content_type": "Application/JSON; charset=utf-8"}),
        ("application/geo+json", b"[]", {"payload": [], "content_type": "application/geo+json"}),
        ("text/plain", "grüß\n".encode(), {"payload": "grüß\n", "content_type": "text/plain"}),
        ("text/plain", b"\xff", {"payload_base64": "/w==", "content_type": "text/plain"}),
        ("image/png", b"\0\xff", {"payload_base64": "AP8=", "content_type": "image/png"}),
    ],
)
def test_a_payload_is_shown_by_its_content_type(content_type: str, payload: bytes, expected: dict[str, object]) -> None:
    raw = msgspec.json.encode(payload_entry(payload, content_type))
    assert json.loads(raw) == expected
    assert b"\n" not in raw
    assert b"\r" not in raw


def test_numbers_stay_as_they_were_written() -> None:
    assert msgspec.json.encode(payload_entry(b'{"a": 1.50}', "application/json")) == b'{"payload":{"a": 1.50}}'


@pytest.mark.parametrize(
    "payload", [b"not json", b"", b'"\xff"', b'{"a": "\xc3("}', b"{} {}", b"[" * 5000 + b"]" * 5000, b"\xef\xbb\xbf{}"]
)
def test_what_only_claims_to_be_json_is_shown_as_bytes(payload: bytes) -> None:
    entry = shown(payload)
    assert base64.b64decode(str(entry["payload_base64"])) == payload
    assert entry["content_type"] == "application/json"
    assert "payload" not in entry


def test_a_gap_tells_from_to_count_and_reason() -> None:
    gap = Gap(1, 1, "orders", reading_of(26, 1), 3, 7, "queue deleted")
    assert json.loads(msgspec.json.encode(gap_entry(gap))) == {
        "queue": "orders",
        "epoch": 26,
        "first_sequence": 3,
        "last_sequence": 7,
        "count": 5,
        "position": spell_position({reading_of(26, 1): 7}),
        "reason": "queue deleted",
    }


def test_an_error_tells_its_code_and_whether_to_try_again() -> None:
    entry = error_entry(StoreUnavailable("the disk is away"))
    assert msgspec.to_builtins(entry) == {
        "code": "store_unavailable",
        "text": "the disk is away",
        "retryable": True,
    }


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
        (1_700_000_000_999, "2023-11-14T22:13:20.999Z"),
    ],
)
def test_times_are_iso_8601_in_utc_with_milliseconds(time_ms: int, text: str) -> None:
    assert iso_time(time_ms) == text


@pytest.mark.parametrize("places", [{1: 1}, {reading_of(2**31, 2**20 - 1): 2**53}, {1: 0, 2: 7, 300: 12}])
def test_a_position_is_read_as_it_was_written(places: dict[int, int]) -> None:
    text = spell_position(places)
    assert parse_position(text) == places
    assert text.isprintable()
    assert not set(text) & set(' ,;"&#?/')


def test_a_position_of_as_many_queues_as_may_be_is_read() -> None:
    places = dict.fromkeys(range(limits.POSITION_QUEUES_MAX), 1)
    assert parse_position(spell_position(places)) == places


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "1-",
        "-5",
        "1--5",
        "1-5.",
        "1-5 ",
        "x-5",
        "1A-5",
        "1-5\n",
        "1-٣",
        "1-" + "9" * 17,
        "1" * 14 + "-1",
        ".".join(["1-5"] * (limits.POSITION_QUEUES_MAX + 1)),
        "x" * 1_000_000,
    ],
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="is not a position") as refused:
        parse_position(text)
    assert len(refused.value.text) < 300


def test_positions_of_deliveries_are_acked_one_by_one() -> None:
    assert ranges_of(["1-5", "2-7.3-9"]) == [(1, 5, 5), (2, 7, 7), (3, 9, 9)]
