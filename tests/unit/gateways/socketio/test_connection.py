"""Socket.IO's rules: who may say what to which namespace, and what is told to it."""

import json

import pytest

from tidings import limits
from tidings.errors import ClientIdInUse, ProtocolViolation
from tidings.gateways.socketio.connection import RESERVED, Acknowledged, Connecting, Connection, Emitted, Left


def opened(*namespaces: str) -> Connection:
    """Returns a connection with open namespaces."""
    connection = Connection()
    for namespace in namespaces:
        connection.receive_message("0" if namespace == "/" else f"0{namespace},")
        connection.accept(namespace, sid="s", pid="p")
    connection.messages_to_send()
    return connection


def test_a_client_is_let_in() -> None:
    connection = Connection()
    assert connection.is_idle
    asked = connection.receive_message('0/admin,{"token":"123"}')
    assert isinstance(asked, Connecting)
    assert (asked.namespace, bytes(asked.auth or b"")) == ("/admin", b'{"token":"123"}')
    assert not connection.is_idle
    connection.accept("/admin", sid="s", pid="p")
    assert connection.messages_to_send() == ['0/admin,{"sid":"s","pid":"p"}']
    assert connection.messages_to_send() == []


def test_a_client_is_refused_and_may_ask_again() -> None:
    connection = Connection()
    connection.receive_message("0")
    connection.refuse("/", ClientIdInUse("it is in use"))
    [message] = connection.messages_to_send()
    assert json.loads(str(message)[1:]) == {
        "message": "it is in use",
        "data": {"code": "client_id_in_use", "text": "it is in use", "retryable": False},
    }
    assert connection.is_idle
    assert connection.receive_message('2["e"]') is None, "it was sent before the refusal arrived"
    assert connection.receive_message("0") == Connecting("/", None)


def test_events_and_acknowledgements_arrive() -> None:
    connection = opened("/", "/orders")
    emitted = connection.receive_message('2/orders,7["created",{"id":7}]')
    assert isinstance(emitted, Emitted)
    assert emitted[:3] == ("/orders", "created", 7)
    assert [bytes(value) for value in emitted.arguments] == [b'{"id":7}']
    acknowledged = connection.receive_message('33["done"]')
    assert isinstance(acknowledged, Acknowledged)
    assert acknowledged[:2] == ("/", 3)


def test_events_and_answers_are_sent() -> None:
    connection = opened("/orders")
    connection.emit("/orders", "created", [b"1"], id=4)
    connection.emit("/orders", "created", [b'{"_placeholder":true,"num":0}'], attachments=[b"\1"])
    connection.answer("/orders", 7, {"sequence": 1})
    assert connection.messages_to_send() == [
        '2/orders,4["created",1]',
        '51-/orders,["created",{"_placeholder":true,"num":0}]',
        b"\1",
        '3/orders,7[{"sequence":1}]',
    ]


def test_names_that_the_client_keeps_for_itself_are_marked() -> None:
    connection = opened("/")
    for name in RESERVED:
        connection.emit("/", name, [])
    assert connection.messages_to_send() == [f'2["${name}"]' for name in RESERVED]


@pytest.mark.parametrize("message", ['2["e"]', "31[]", "1", "abc", b"bytes"])
def test_who_does_not_connect_first_breaks_the_protocol(message: str | bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Connection().receive_message(message)


@pytest.mark.parametrize("messages", [["0", "0"], ["0/a,", '2/b,["e"]'], ["0", "2[1]"], ["0", "2[null]"]])
def test_more_that_breaks_the_protocol(messages: list[str]) -> None:
    connection = Connection()
    for message in messages[:-1]:
        connection.receive_message(message)
        connection.accept("/", sid="s", pid="p")
    with pytest.raises(ProtocolViolation):
        connection.receive_message(messages[-1])


def test_a_namespace_that_was_left_hears_and_says_nothing_and_the_others_go_on() -> None:
    connection = opened("/", "/orders")
    assert connection.receive_message("1/orders,") == Left("/orders")
    connection.emit("/orders", "created", [])
    connection.answer("/orders", 1, None)
    connection.leave("/orders")
    assert connection.messages_to_send() == []
    assert connection.receive_message('2/orders,["e"]') is None
    assert isinstance(connection.receive_message('2["e"]'), Emitted)
    connection.leave("/")
    assert connection.messages_to_send() == ["1"]
    assert connection.is_idle


def test_one_that_leaves_before_it_was_let_in_is_not_let_in() -> None:
    connection = Connection()
    connection.receive_message("0")
    assert connection.receive_message('2["early"]') is None
    assert connection.receive_message("1") == Left("/")
    connection.accept("/", sid="s", pid="p")
    assert connection.messages_to_send() == []


def test_namespaces_are_bounded() -> None:
    connection = Connection()
    for number in range(limits.SOCKETIO_NAMESPACES_MAX):
        assert connection.receive_message(f"0/{number},")
    assert connection.receive_message("0/more,") is None
    [message] = connection.messages_to_send()
    assert str(message).startswith("4/more,")
    assert json.loads(str(message).partition(",")[2])["data"]["code"] == "limit_reached"
