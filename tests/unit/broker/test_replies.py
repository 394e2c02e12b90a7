"""Replies: to whoever waits at an address, once, and to nobody after its time."""

import pytest

from tests.unit.broker.harness import Client, Harness, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.calls import AwaitReply, Respond
from tidings.errors import InvalidOption, LimitReached, PayloadTooLarge
from tidings.model import ReplyInfo

WAIT_MS = 5_000


def requester(harness: Harness, request: int = 7, address: str = "me.1") -> Client:
    """Returns a client that waits for a reply."""
    client = harness.connect("requester", producer="same")
    wait(client, request, address)
    return client


def wait(client: Client, request: int, address: str = "me.1", wait_ms: int = WAIT_MS) -> None:
    client.harness.do(inputs.Call(client.connection, request, AwaitReply(address=address, wait_ms=wait_ms)))


def reply(payload: bytes = b"1", address: str = "me.1") -> Respond:
    return Respond(address=address, payload=payload, headers={"a": "b"})


def told(payload: bytes = b"1") -> ReplyInfo:
    return ReplyInfo(payload=payload, content_type="application/json", headers={"a": "b"}, client_id="responder")


def assert_nothing_is_left(harness: Harness) -> None:
    replies = harness.broker._replies
    assert (replies._waiting, replies._addresses, replies._kept_bytes) == ({}, {}, 0)
    assert not any(session.replies for session in harness.broker.state.sessions.values())


def test_a_reply_reaches_who_waits_and_only_the_first() -> None:
    harness = Harness()
    client, responder = requester(harness), harness.connect("responder")
    assert responder.call(reply()) is True
    assert client.answers == {7: told()}
    assert responder.call(reply(b"2")) is False
    assert client.answers == {7: told()}
    assert_nothing_is_left(harness)


def test_nothing_of_it_is_stored() -> None:
    harness = Harness()
    requester(harness)
    responder = harness.connect("responder")
    harness.flush()
    commits = len(harness.commits)
    responder.call(reply())
    harness.flush()
    assert len(harness.commits) == commits


def test_a_reply_after_the_time_reaches_nobody_and_harms_nobody() -> None:
    harness = Harness()
    client, responder = requester(harness), harness.connect("responder")
    harness.advance(WAIT_MS - 1)
    assert client.answers == {}
    harness.advance(1)
    assert client.answers == {7: None}
    assert responder.call(reply()) is False
    assert client.answers == {7: None}
    assert_nothing_is_left(harness)


def test_who_gives_up_waits_no_more() -> None:
    harness = Harness()
    client, responder = requester(harness), harness.connect("responder")
    wait(client, 8, wait_ms=0)
    assert client.answers == {8: None}
    assert_nothing_is_left(harness)
    assert responder.call(reply()) is False


def test_a_reply_to_nowhere_reaches_nobody() -> None:
    assert Harness().connect("responder").call(reply()) is False


def test_a_client_whose_connection_was_lost_gets_its_reply_when_it_is_back() -> None:
    harness = Harness()
    client, responder = requester(harness), harness.connect("responder")
    client.disconnect()
    assert responder.call(reply()) is True
    assert responder.call(reply(b"2")) is False, "the first one counts, also while it waits"
    client = requester(harness, 8)
    assert client.answers == {8: told()}
    assert_nothing_is_left(harness)


def test_a_client_that_is_back_before_the_reply_gets_it_once() -> None:
    harness = Harness()
    requester(harness).disconnect()
    client = requester(harness, 8)
    harness.connect("responder").call(reply())
    assert client.answers == {8: told()}
    assert_nothing_is_left(harness)


def test_who_waits_last_at_an_address_gets_the_reply_and_who_waited_before_may_go() -> None:
    harness = Harness()
    before, client = requester(harness), harness.connect("other")
    wait(client, 9)
    before.disconnect(farewell=True)
    assert harness.connect("responder").call(reply()) is True
    assert (before.answers, client.answers) == ({}, {9: told()})
    assert_nothing_is_left(harness)


def test_a_client_that_does_not_come_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLY_RETURN_MS", 1_000)
    harness = Harness()
    requester(harness).disconnect()
    responder = harness.connect("responder")
    responder.call(reply())
    harness.advance(1_000)
    assert_nothing_is_left(harness)


def test_after_a_farewell_nobody_waits() -> None:
    harness = Harness()
    requester(harness).disconnect(farewell=True)
    assert_nothing_is_left(harness)
    assert harness.connect("responder").call(reply()) is False


def test_a_client_that_does_not_read_gets_its_reply_when_it_reads_again() -> None:
    harness = Harness()
    client, responder = requester(harness), harness.connect("responder")
    harness.do(inputs.SendBuffer(client.connection, full=True))
    assert responder.call(reply()) is True
    assert client.answers == {}
    harness.do(inputs.SendBuffer(client.connection, full=False))
    assert client.answers == {7: told()}
    assert_nothing_is_left(harness)


def test_more_than_the_bound_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLIES_KEPT_BYTES_MAX", 1_000)
    harness = Harness()
    client, responder = requester(harness), harness.connect("responder")
    wait(client, 8, "me.2")
    client.disconnect()
    assert responder.call(reply(b"x" * 480)) is True
    assert responder.call(reply(b"x" * 480, "me.2")) is False
    client = requester(harness, 9)
    assert client.answers == {9: told(b"x" * 480)}
    wait(client, 10, "me.2")
    assert responder.call(reply(b"1", "me.2")) is True
    assert_nothing_is_left(harness)


def test_a_wait_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLIES_AWAITED_MAX", 1)
    harness = Harness()
    client = harness.connect()
    for options in ({"address": ""}, {"address": "x" * 256}, {"wait_ms": -1}, {"wait_ms": 3_600_001}):
        wait(client, 1, **options)
        assert_refused(client, InvalidOption)
    wait(client, 1)
    wait(client, 2, "me.2")
    assert_refused(client, LimitReached, "waits for 1 replies, the limit is 1")
    wait(client, 3)
    assert not client.refusals, "to ask again is no more than before"


def test_a_reply_is_no_larger_than_a_message() -> None:
    responder = Harness().connect("responder")
    responder.call(reply(b"x" * (limits.PAYLOAD_SIZE_BYTES_MAX + 1)))
    assert_refused(responder, PayloadTooLarge)
    responder.call(Respond(address="a", payload=b"", headers={str(n): "" for n in range(65)}))
    assert_refused(responder, InvalidOption, "65 headers")


def test_headers_count_towards_what_is_kept_and_a_content_type_has_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLIES_KEPT_BYTES_MAX", 1_000)
    harness = Harness()
    client, responder = requester(harness), harness.connect("responder")
    client.disconnect()
    assert responder.call(Respond(address="me.1", payload=b"", headers={"a": "b" * 500})) is False
    for content_type in ("", "x" * 256):
        responder.call(Respond(address="me.1", payload=b"", content_type=content_type))
        assert_refused(responder, InvalidOption, "content type", "255")
    assert responder.call(Respond(address="me.1", payload=b"")) is True
