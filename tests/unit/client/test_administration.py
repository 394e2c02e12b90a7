"""Dead letters and settings, against a server that does what each test tells it."""

import math
from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

import tidings
from tests.unit.client.fake_server import FakeConnection, FakeServer
from tidings import calls
from tidings.model import DeadLetterInfo, Failure
from tidings.wire import Call, Frame, Result


def answering(server: FakeServer, answer: Callable[[calls.Call], object]) -> list[calls.Call]:
    """Lets the server answer calls; returns those that it is asked."""
    asked: list[calls.Call] = []

    def call(connection: FakeConnection, frame: Frame, body: bytes) -> None:
        assert isinstance(frame, Call)
        asked.append(calls.decode_call(body))
        connection.send(Result(frame.request), msgspec.msgpack.encode(answer(asked[-1])))

    server.call = call
    return asked


def dead(number: int) -> DeadLetterInfo:
    return DeadLetterInfo(
        number=number, queue="orders", epoch=1, sequence=number, event="created", payload=b'{"id": 7}',
        content_type="application/json" if number != 2 else "application/octet-stream", id=None, key=None, headers={},
        published=1, died=2, reason="rejected", attempts=1, client_id="me", fingerprint="f",
        failure=Failure("KeyError", "'vat'"), edited=False,
    )  # fmt: skip


async def test_dead_letters_come_page_by_page_and_decoded(server: FakeServer, client: tidings.Client) -> None:
    def page(call: calls.Call) -> object:
        assert isinstance(call, calls.ListDeadLetters)
        following = range(call.after + 1, min(call.after + 2, call.after + call.count_max) + 1)
        return [dead(number) for number in following if number <= 3]

    asked = answering(server, page)
    letters = [letter async for letter in client.dead_letters("billing", fingerprint="f")]
    assert [letter.number for letter in letters] == [1, 2, 3]
    assert [letter.payload for letter in letters] == [{"id": 7}, b'{"id": 7}', {"id": 7}]
    assert letters[0].failure == tidings.Failure("KeyError", "'vat'")
    assert {call.fingerprint for call in asked if isinstance(call, calls.ListDeadLetters)} == {"f"}
    assert [letter.number async for letter in client.dead_letters("billing", limit=1)] == [1]
    assert [letter.number async for letter in client.dead_letters("billing", limit=3)] == [1, 2, 3]
    assert [letter.number async for letter in client.dead_letters("billing", after=2)] == [3]


async def test_what_is_asked_of_dead_letters_is_what_was_said(server: FakeServer, client: tidings.Client) -> None:
    asked = answering(server, lambda call: 5 if isinstance(call, calls.DeleteDeadLetters | calls.Redrive) else None)
    await client.edit_dead_letter("billing", 3, payload={"id": 8}, headers={})
    await client.edit_dead_letter("billing", 3, payload=None, event="paid")
    assert await client.delete_dead_letters("billing", number=3) == 5
    assert await client.redrive("billing", fingerprint="f", rate=10) == 5
    await client.configure_subscription("billing", attempts_max=3, backoff_max=timedelta(minutes=1), expires_after=0)
    assert asked == [
        calls.EditDeadLetter(
            subscription="billing", number=3, payload=b'{"id":8}', content_type="application/json", headers={}
        ),
        calls.EditDeadLetter(
            subscription="billing", number=3, payload=b"null", content_type="application/json", event="paid"
        ),
        calls.DeleteDeadLetters(subscription="billing", number=3),
        calls.Redrive(subscription="billing", fingerprint="f", rate=10.0),
        calls.ConfigureSubscription(name="billing", attempts_max=3, backoff_max_ms=60_000, expires_after_ms=None),
    ]


async def test_what_is_asked_of_a_queue_is_what_was_said(server: FakeServer, client: tidings.Client) -> None:
    asked = answering(server, lambda _: None)
    await client.configure_queue("orders", history_age=timedelta(hours=1), history_bytes=math.inf, history_messages=0)
    await client.configure_queue("orders", history_age=math.inf, ttl=1.5)
    await client.configure_queue("orders", waiting_messages=9, when_full="drop-oldest")
    await client.configure_queue("orders", waiting_bytes=math.inf, waiting_age=timedelta(minutes=1))
    assert asked == [
        calls.ConfigureQueue(name="orders", history_age_ms=3_600_000, history_bytes=None, history_messages=0),
        calls.ConfigureQueue(name="orders", history_age_ms=None, ttl_ms=1_500),
        calls.ConfigureQueue(name="orders", waiting_messages=9, when_full="drop-oldest"),
        calls.ConfigureQueue(name="orders", waiting_bytes=None, waiting_age_ms=60_000),
    ]
    for settings in (
        {"history_bytes": -1},
        {"history_messages": 1.5},
        {"history_age": -1},
        {"history_bytes": "much"},
        {"when_full": "drop"},
    ):
        with pytest.raises(tidings.InvalidOption, match=next(iter(settings))):
            await client.configure_queue("orders", **settings)  # type: ignore[arg-type]


async def test_dead_letters_and_settings_that_cannot_be_are_refused_at_once(client: tidings.Client) -> None:
    with pytest.raises(tidings.InvalidOption, match="number and fingerprint"):
        await client.redrive("billing", number=1, fingerprint="f")
    with pytest.raises(tidings.InvalidOption, match="attempts_max"):
        await client.configure_subscription("billing", attempts_max=0)
    with pytest.raises(tidings.InvalidOption, match="new payload"):
        await client.edit_dead_letter("billing", 1, content_type="text/plain")
    with pytest.raises(tidings.InvalidOption, match="strings"):
        await client.edit_dead_letter("billing", 1, headers={"a": 1})  # type: ignore[dict-item]
    for handling_max in (-1, 13 * 3600, None):
        with pytest.raises(tidings.InvalidOption, match="handling_max"):
            client.on("orders", handling_max=handling_max)  # type: ignore[arg-type]
