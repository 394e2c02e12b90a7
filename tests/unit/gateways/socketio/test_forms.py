"""Both forms of the door, packet by packet: what is published, delivered, settled, recovered and refused."""

import asyncio
import json

import pytest

from tests.integration.processes import eventually
from tests.unit.gateways.socketio.raw import RawClient
from tidings.calls import ConfigureSubscription
from tidings.errors import StoreUnavailable
from tidings.gateways.socketio.explicit import Explicit
from tidings.node import Draft, open_conversation
from tidings.node.conversation import Conversation
from tidings.server import Server


async def publisher(server: Server) -> Conversation:
    """Returns a conversation to publish in."""
    return await open_conversation(server.node, client_id=None, protocol="test", address="here")


async def subscription(server: Server, name: str) -> object:
    """Returns a subscription as listings show it, None if there is none."""
    conversation = await publisher(server)
    entries = (await conversation.list("subscriptions")).entries
    conversation.close()
    return next((entry for entry in entries if entry.name == name), None)


async def lag(server: Server, name: str) -> int:
    """Returns how many messages a subscription has not settled."""
    found = await subscription(server, name)
    return -1 if found is None else found.lag  # type: ignore[attr-defined, no-any-return]


# --- the natural form ---


async def test_a_namespace_is_a_queue_and_its_events_are_events(url: str, server: Server) -> None:
    async with RawClient(url) as client:
        assert (await client.enter("/orders", clientId="billing"))["sid"]
        await client.send('42/orders,1["created",{"id": 7}]')
        told = sorted([await client.receive(), await client.receive()])
        assert told[0].startswith('42/orders,["created",{"id": 7},"')
        assert told[1].startswith('43/orders,1[{"queue":"orders","sequence":1,"epoch":')


async def test_what_is_missed_comes_later_and_is_settled_once_a_pong_proves_it(url: str, server: Server) -> None:
    async with RawClient(url) as client:
        await client.enter("/orders", clientId="billing")
    writer = await publisher(server)
    await writer.publish("orders", [Draft("created", b"%d" % number) for number in range(3)])
    async with RawClient(url, answers=False) as client:
        await client.enter("/orders", clientId="billing")
        assert [(await client.event("/orders"))[1] for _ in range(3)] == [0, 1, 2]
        await client.enter("/others", events=[])
        assert (await client.ask("/others", "created", 1))["sequence"] == 1
        assert await lag(server, "billing:orders/#") == 3, "what it says by itself proves nothing"
        await client.answer_ping()
        await eventually(lambda: _is(lag(server, "billing:orders/#"), 0), what="the pong settles all three")
    async with RawClient(url) as client:
        await client.enter("/orders", clientId="billing")
        await writer.publish("orders", [Draft("created", b"3")])
        assert (await client.event("/orders"))[1] == 3


async def _is(value: object, wanted: object) -> bool:
    return await value == wanted  # type: ignore[misc, no-any-return]


async def test_what_was_not_proved_comes_again_unless_the_client_shows_that_it_has_it(url: str, server: Server) -> None:
    writer = await publisher(server)
    for recovers in (False, True):
        async with RawClient(url, answers=False) as client:
            entered = await client.enter("/orders", clientId="billing")
            await writer.publish("orders", [Draft("created", b"%d" % number) for number in range(5)])
            events = [await client.event("/orders") for _ in range(5)]
            assert [event[1] for event in events] == [0, 1, 2, 3, 4]
            client.socket.transport.abort()
        returns = {"pid": entered["pid"], "offset": events[2][2]} if recovers else {}
        async with RawClient(url) as client:
            again = await client.enter("/orders", clientId="billing", **returns)
            assert (again["pid"] == entered["pid"]) is recovers
            count = 2 if recovers else 5
            assert [(await client.event("/orders"))[1] for _ in range(count)] == [0, 1, 2, 3, 4][-count:]
            await client.answer_ping()
            await eventually(lambda: _is(lag(server, "billing:orders/#"), 0))


async def test_an_offset_settles_nothing_that_waits_for_a_retry(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter("/orders", clientId="billing", ack="manual")
        await writer.publish("orders", [Draft("created", b"%d" % number) for number in range(3)])
        assert [(await client.event("/orders"))[1] for _ in range(3)] == [0, 1, 2]
        await client.send('43/orders,2[{"nack":true,"delay_ms":3600000}]', "43/orders,3[]")
        await eventually(lambda: _is(_retrying(server), 1))
        client.socket.transport.abort()
    async with RawClient(url, answers=False) as client:
        entered = await client.enter("/orders", clientId="billing")
        await writer.publish("orders", [Draft("created", b"3"), Draft("created", b"4")])
        events = [await client.event("/orders") for _ in range(3)]
        assert sorted(event[1] for event in events) == [0, 3, 4]
        client.socket.transport.abort()
    async with RawClient(url) as client:
        again = await client.enter("/orders", clientId="billing", pid=entered["pid"], offset=events[-1][2])
        assert again["pid"] == entered["pid"]
        assert await _retrying(server) == 1, "it was not sent over the connection that the offset is of"


async def _retrying(server: Server) -> int:
    found = await subscription(server, "billing:orders/#")
    return found.retrying  # type: ignore[union-attr, attr-defined, no-any-return]


async def test_one_without_a_client_id_recovers_from_the_history(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        entered = await client.enter("/orders", events=["created", "paid"])
    await writer.publish("orders", [Draft("created", b"1"), Draft("paid", b"2"), Draft("other", b"3")])
    async with RawClient(url) as client:
        again = await client.enter("/orders", events=["created", "paid"], pid=entered["pid"])
        assert again["pid"] == entered["pid"]
        first, second = await client.event("/orders"), await client.event("/orders")
        assert sorted([first[:2], second[:2]]) == [["created", 1], ["paid", 2]]
    async with RawClient(url) as client:
        again = await client.enter("/orders", events=["created", "paid"], pid=entered["pid"], offset=first[2])
        assert again["pid"] == entered["pid"]
        assert (await client.event("/orders"))[:2] == second[:2]


async def test_one_that_cannot_be_recovered_gets_another_pid(url: str, server: Server) -> None:
    async with RawClient(url) as client:
        entered = await client.enter("/orders", events=["created"])
    for changed in ({"events": ["created", "paid"]}, {"pid": "foreign"}, {"pid": "a.b-c-d", "offset": "x"}):
        async with RawClient(url) as client:
            auth = {"events": ["created"], "pid": entered["pid"]} | changed
            assert (await client.enter("/orders", **auth))["pid"] not in (entered["pid"], "foreign", "a.b-c-d")


async def test_handlers_acknowledge_where_that_was_asked_for(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter("/orders", clientId="billing", ack="manual")
        await writer.publish("orders", [Draft("created", b"%d" % number) for number in range(4)])
        numbers = [(await client.event("/orders"))[-1] for _ in range(4)]
        assert numbers == [1, 2, 3, 4]
        await client.send("43/orders,1[]", '43/orders,3["anything"]', '43/orders,4[{"reject":true,"error":"bad"}]')
        await client.send('43/orders,2[{"nack":true,"delay_ms":0}]', "43/orders,2[]", "43/orders,99[]")
        name, payload, number = await client.event("/orders")
        assert (name, payload, number) == ("created", 1, 5)
        await client.send("43/orders,5[]")
        await eventually(lambda: _is(lag(server, "billing:orders/#"), 0))
    found = await subscription(server, "billing:orders/#")
    assert found.dead == 1  # type: ignore[union-attr, attr-defined]


async def test_of_what_comes_again_or_is_read_no_more_nothing_is_kept(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter()
        options = {"queue": "orders", "as": "billing", "ack_timeout_ms": 300, "attempts_max": 1_000}
        await client.ask("/", "subscribe", options)
        assert server._socketio is not None
        [session] = server._socketio._sessions.values()
        namespace = session.namespaces["/"]
        assert isinstance(namespace, Explicit)
        waiting = namespace._waiting._waiting
        await writer.call(ConfigureSubscription(name="billing", backoff_min_ms=1, backoff_max_ms=1))
        await writer.publish("orders", [Draft("created", b"1")])
        found = [await client.event("/") for _ in range(3)]
        assert [event[1]["attempt"] for event in found] == [1, 2, 3]
        assert [event[-1] for event in found] == [1, 1, 1], "who acknowledges any of them settles it"
        await client.send("431[]")
        await eventually(lambda: _is(lag(server, "billing"), 0))
        assert waiting == {}
        await writer.call(ConfigureSubscription(name="billing", ack_timeout_ms=30_000))
        await writer.publish("orders", [Draft("created", b"2")])
        while (await client.event("/"))[-1] != 2:
            pass  # the first one once more, on a machine that is too slow for its ack timeout
        assert await client.ask("/", "unsubscribe", {"subscription": "billing"}) == {"subscription": "billing"}
        assert waiting == {}
        await client.send("432[]")
        assert "queues" in await client.ask("/", "queues")


async def test_a_client_that_acknowledges_nothing_has_a_full_window(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter("/orders", clientId="billing", ack="manual")
        await writer.call(ConfigureSubscription(name="billing:orders/#", in_flight_max=100))
        await writer.publish("orders", [Draft("created", b"%d" % number) for number in range(3_000)])
        numbers = [(await client.event("/orders"))[-1] for _ in range(100)]
        found = await subscription(server, "billing:orders/#")
        assert found.in_flight == 100  # type: ignore[union-attr, attr-defined]
        assert server._socketio is not None
        [session] = server._socketio._sessions.values()
        assert session.engine.waiting_bytes == 0
        await client.send(*[f"43/orders,{number}[]" for number in numbers])
        assert (await client.event("/orders"))[1] == 100


async def test_bytes_are_attachments_and_text_is_a_string(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter("/orders", recovery=False)
        await client.send('451-/orders,1["created",{"_placeholder":true,"num":0}]', b"\0\xff")
        assert (await client.receive()).startswith('43/orders,1[{"queue":"orders"')
        assert await client.receive() == '451-/orders,["created",{"_placeholder":true,"num":0}]'
        assert await client.receive() == b"\0\xff"
        await writer.publish("orders", [Draft("created", "é".encode(), "text/plain"), Draft("created", b"{broken")])
        assert await client.receive() == '42/orders,["created","é"]'
        assert await client.receive() == '451-/orders,["created",{"_placeholder":true,"num":0}]'
        assert await client.receive() == b"{broken", "what only claims to be JSON would end the client's connection"


async def test_reserved_names_do_not_end_the_standard_client(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter("/orders", recovery=False)
        await writer.publish("orders", [Draft("connect", b"1"), Draft("disconnect", b"2")])
        assert await client.receive() == '42/orders,["$connect",1]'
        assert await client.receive() == '42/orders,["$disconnect",2]'


async def test_refusals_are_told_and_the_namespace_goes_on(url: str) -> None:
    async with RawClient(url) as client:
        await client.enter("/orders", events=[])
        assert (await client.ask("/orders", "not good", 1))["error"]["code"] == "invalid_name"
        assert (await client.ask("/orders", "created", 1, 2))["error"]["code"] == "invalid_payload"
        await client.send('451-/orders,1["created",{"a":{"_placeholder":true,"num":0}}]', b"inside")
        assert "invalid_payload" in await client.receive()
        await client.send('42/orders,["not good",1]')
        name, error, _ = await client.event("/orders")
        assert (name, error["code"], error["event"]) == ("$error", "invalid_name", "not good")
        assert (await client.ask("/orders", "created"))["sequence"] == 1
        await client.enter("/$presence", events=[])
        assert (await client.ask("/$presence", "x", 1))["error"]["code"] == "system_queue"


# --- the explicit form ---


async def test_verbs_are_events_of_the_default_namespace(url: str, server: Server) -> None:
    async with RawClient(url) as client:
        await client.enter(clientId="billing")
        ok = await client.ask("/", "subscribe", {"queue": "orders", "event": "created", "as": "mine"})
        assert ok == {"subscription": "mine", "durable": True, "created": True}
        wanted = {"queue": "orders", "event": "created", "payload": {"id": 7}, "id": "a", "key": "k"}
        await client.send(f"421{json.dumps(['publish', wanted | {'headers': {'h': 'v'}}])}")
        frames = sorted([await client.receive(), await client.receive()])
        assert frames[0].startswith('421["message",{"queue":"orders"')
        assert '"payload":{"id": 7}' in frames[0]
        assert frames[0].endswith('"id":"a","key":"k","headers":{"h":"v"},"subscription":"mine"}]')
        assert frames[1].startswith('431[{"queue":"orders","sequence":1')
        assert await lag(server, "mine") == 1
        await client.send("431[]")
        await eventually(lambda: _is(lag(server, "mine"), 0))
        assert await client.ask("/", "unsubscribe", {"subscription": "mine"}) == {"subscription": "mine"}
        assert (await client.ask("/", "clients"))["clients"][0]["client_id"] == "billing"
        assert "orders" in [queue["name"] for queue in (await client.ask("/", "queues", {}))["queues"]]
        assert (await client.ask("/", "subscriptions"))["subscriptions"][0]["name"] == "mine"


async def test_one_that_is_shared_is_attached_once_and_left_as_a_whole(url: str, server: Server) -> None:
    async with RawClient(url) as client:
        await client.enter()
        wanted = {"queue": "orders", "as": "team", "shared": True}
        assert (await client.ask("/", "subscribe", wanted))["created"]
        assert (await client.ask("/", "subscribe", wanted))["error"]["code"] == "refused"
        assert await client.ask("/", "unsubscribe", {"subscription": "team"}) == {"subscription": "team"}
        assert (await client.ask("/", "subscriptions"))["subscriptions"][0]["subscribers"] == []


async def test_a_subscription_chooses_by_headers(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter()
        await client.ask("/", "subscribe", {"queue": "orders", "headers": ["region=eu"]})
        drafts = [Draft("created", b"1", headers={"region": "us"}), Draft("created", b"2", headers={"region": "eu"})]
        await writer.publish("orders", drafts)
        assert (await client.event("/"))[1]["payload"] == 2


async def test_a_namespace_chooses_by_headers(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter("/orders", headers=["region=eu"])
        drafts = [Draft("created", b"1", headers={"region": "us"}), Draft("created", b"2", headers={"region": "eu"})]
        await writer.publish("orders", drafts)
        assert (await client.event("/orders"))[1] == 2


async def test_one_that_is_not_durable_goes_on_at_the_positions_that_it_hands_back(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter()
        begun = (await client.ask("/", "subscribe", {"queue": "orders.*"}))["position"]
        await writer.publish("orders.eu", [Draft("created", b"%d" % number) for number in (1, 2)])
        await writer.publish("orders.us", [Draft("created", b"3")])
        positions = [(await client.event("/"))[1]["position"] for _ in range(3)]
    await writer.publish("orders.eu", [Draft("created", b"4")])
    async with RawClient(url) as client:
        await client.enter()
        ok = await client.ask("/", "subscribe", {"queue": "orders.*", "positions": [begun, *positions, "1-5"]})
        assert sorted(ok["position"].split(".")) == sorted(positions[1:])
        name, gap, _ = await client.event("/")
        assert (name, gap["epoch"], gap["first_sequence"], gap["count"]) == ("gap", 1, 6, None)
        assert (await client.event("/"))[1]["payload"] == 4
        refused = await client.ask("/", "subscribe", {"queue": "x", "as": "durable", "position": positions[0]})
        assert "cursor" in refused["error"]["text"]


async def test_a_message_that_takes_longer_is_extended(url: str, server: Server) -> None:
    writer = await publisher(server)
    async with RawClient(url) as client:
        await client.enter(clientId="billing")
        await client.ask("/", "subscribe", {"queue": "orders", "as": "mine", "ack_timeout_ms": 60_000})
        await writer.publish("orders", [Draft("created", b"1")])
        _, message, number = await client.event("/")
        wanted = {"subscription": "mine", "position": message["position"]}
        assert await client.ask("/", "extend", wanted) == {"subscription": "mine"}
        await client.send(f"43{number}[]")
        await eventually(lambda: _is(lag(server, "mine"), 0))
        assert (await client.ask("/", "extend", wanted))["error"]["code"] == "delivery_taken_away"
        assert (await client.ask("/", "extend", wanted | {"subscription": "other"}))["error"]["code"] == "not_found"


async def test_what_a_handler_acknowledges_with_is_the_reply_to_a_request(url: str, server: Server) -> None:
    async with RawClient(url) as client, RawClient(url) as service:
        await service.enter("/rates", clientId="rates", ack="manual")
        await client.enter()
        wanted = {"queue": "rates", "event": "quote", "payload": 100}
        await client.send(f"421{json.dumps(['request', wanted])}")
        name, payload, number = await service.event("/rates")
        assert (name, payload) == ("quote", 100)
        await service.send(f'43/rates,{number}[{{"reply":{{"price":108}}}}]')
        assert await client.receive() == '431[{"payload":{"price":108},"client_id":"rates"}]'
        await eventually(lambda: _is(lag(server, "rates:rates/#"), 0), what="the reply acks, too")
        await client.send(f"421{json.dumps(['request', wanted])}")
        *_, number = await service.event("/rates")
        await service.send(f'461-/rates,{number}[{{"reply":{{"_placeholder":true,"num":0}}}}]', b"\1")
        assert (await client.receive()).startswith('461-1[{"payload":{"_placeholder":true,"num":0},"content_type":')
        assert await client.receive() == b"\1"
        assert (await client.ask("/", "publish", wanted))["sequence"] == 3
        *_, number = await service.event("/rates")
        await service.send(f'43/rates,{number}[{{"reply":1}}]')
        await eventually(lambda: _is(lag(server, "rates:rates/#"), 0), what="of what is no request it is an ack")


async def test_a_reply_that_cannot_be_one_is_a_failed_attempt(url: str, server: Server) -> None:
    async with RawClient(url) as client, RawClient(url) as service:
        await service.enter(clientId="rates")
        await service.ask("/", "subscribe", {"queue": "rates", "as": "rates", "attempts_max": 1})
        await client.enter()
        await client.send(f"421{json.dumps(['request', {'queue': 'rates', 'event': 'quote'}])}")
        *_, number = await service.event("/")
        await service.send(f'461-{number}[{{"reply":[{{"_placeholder":true,"num":0}}]}}]', b"\1")
        await eventually(lambda: _is(dead(server, "rates"), 1))


async def dead(server: Server, name: str) -> int:
    found = await subscription(server, name)
    return found.dead  # type: ignore[attr-defined, no-any-return, union-attr]


async def test_the_explicit_form_asks_and_responds(url: str) -> None:
    async with RawClient(url) as client, RawClient(url) as service:
        await service.enter()
        await service.ask("/", "subscribe", {"queue": "rates"})
        await client.enter()
        nobody = await client.ask("/", "request", {"queue": "others", "event": "quote"})
        assert nobody["error"]["code"] == "unanswered"
        late = await client.ask("/", "request", {"queue": "rates", "event": "quote", "timeout_ms": 1})
        assert late["error"]["code"] == "timed_out"
        await service.event("/")
        await client.send(f"421{json.dumps(['request', {'queue': 'rates', 'event': 'quote', 'payload': 1}])}")
        to = (await service.event("/"))[1]["headers"]["$reply-to"]
        wanted = {"to": to, "payload": "as text", "content_type": "text/plain", "headers": {"zone": "UTC"}}
        assert await service.ask("/", "respond", wanted) == {"awaited": True}
        told = '431[{"payload":"as text","content_type":"text/plain","headers":{"zone":"UTC"}}]'
        assert await client.receive() == told
        assert await service.ask("/", "respond", wanted) == {"awaited": False}


async def test_an_explicit_message_of_bytes_has_its_payload_attached(url: str) -> None:
    async with RawClient(url) as client:
        await client.enter()
        await client.ask("/", "subscribe", {"queue": "orders"})
        await client.send(
            '451-["publish",{"queue":"orders","event":"created","payload":{"_placeholder":true,"num":0}}]', b"\1"
        )
        head = await client.receive()
        assert head.startswith('451-1["message",{"queue":"orders"')
        assert '"payload":{"_placeholder":true,"num":0},"content_type":"application/octet-stream"' in head
        assert await client.receive() == b"\1"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["publish", {"queue": "orders"}], "invalid_option"),
        (["publish", {"queue": "orders", "event": "e", "colour": 1}], "invalid_option"),
        (["publish", {"queue": "or ders", "event": "e"}], "invalid_name"),
        (["publish", {"queue": "orders", "event": "e", "content_type": "text/plain", "payload": 1}], "invalid_payload"),
        (["publish", {"queue": "orders", "event": "e", "id": "x" * 256}], "invalid_option"),
        (["publish", 1, 2], "invalid_option"),
        (["subscribe", {"queue": "#.x"}], "invalid_filter"),
        (["subscribe", {"queue": "orders", "from": "yesterday"}], "invalid_option"),
        (["subscribe", {"queue": "orders", "from": "2026-01-01T00:00:00"}], "invalid_option"),
        (["subscribe", {"queue": "orders", "from": 7}], "invalid_option"),
        (["subscribe", {"queue": "orders", "in_flight_max": 10**9}], "invalid_option"),
        (["unsubscribe", {"subscription": "nobody"}], "not_found"),
        (["unsubscribe"], "invalid_option"),
        (["subscribe", {"queue": "orders", "position": "here"}], "invalid_option"),
        (["subscribe", {"queue": "orders", "headers": ["=x"]}], "invalid_filter"),
        (["request", {"queue": "orders"}], "invalid_option"),
        (["request", {"queue": "orders", "event": "e", "timeout_ms": 0}], "invalid_option"),
        (["respond", {"payload": 1}], "invalid_option"),
        (["respond", {"to": "x", "payload": 1, "content_type": "text/plain"}], "invalid_payload"),
        (["extend", {"subscription": "nobody", "position": "1-1"}], "not_found"),
        (["queues", 1], "invalid_option"),
        (["nonsense"], "invalid_option"),
    ],
)
async def test_what_cannot_be_done_is_refused_and_the_rest_goes_on(
    url: str, arguments: list[object], code: str
) -> None:
    async with RawClient(url) as client:
        await client.enter()
        assert (await client.ask("/", *arguments))["error"]["code"] == code
        assert (await client.ask("/", "publish", {"queue": "orders", "event": "e"}))["sequence"] == 1


@pytest.mark.parametrize("start", ["earliest", 2, "2020-01-01T00:00:00Z", "last"])
async def test_a_new_subscription_starts_where_it_is_told(url: str, server: Server, start: object) -> None:
    writer = await publisher(server)
    await writer.publish("orders", [Draft("created", b"%d" % number) for number in range(1, 4)])
    async with RawClient(url) as client:
        await client.enter()
        await client.ask("/", "subscribe", {"queue": "orders", "from": start})
        _, message, _ = await client.event("/")
        assert message["sequence"] == {2: 2, "last": 3}.get(start, 1)  # type: ignore[call-overload]


# --- clients ---


async def test_namespaces_of_a_connection_are_one_client(url: str, server: Server) -> None:
    async with RawClient(url) as client:
        await client.enter("/orders", clientId="billing")
        await client.enter("/users")
        await client.enter()
        refused = await client.enter("/other", clientId="somebody")
        assert refused["data"]["code"] == "invalid_option"
        [entry] = [entry for entry in (await client.ask("/", "clients"))["clients"] if entry["client_id"]]
        assert (entry["client_id"], entry["queues"], entry["protocol"]) == ("billing", ["orders", "users"], "socketio")
        await client.send("41/orders,")
        assert (await client.ask("/users", "created", 1))["sequence"] == 1
        await client.event("/users")
        assert (await client.enter("/orders"))["sid"], "one that was left can be entered again"


async def test_a_client_id_is_its_clients_unless_it_is_taken_over(url: str) -> None:
    async with RawClient(url) as first, RawClient(url) as second:
        entered = await first.enter("/orders", clientId="billing")
        assert (await second.enter("/orders", clientId="billing"))["data"]["code"] == "client_id_in_use"
        assert (await second.enter("/orders", clientId="billing", takeOver=True))["sid"]
        name, error, _ = await first.event("/orders")
        assert (name, error["code"]) == ("$error", "taken_over")
        assert await first.receive() == "41/orders,", "the standard client does not come back from this by itself"
        async with RawClient(url) as third:
            assert (await third.enter("/orders", clientId="billing", pid=entered["pid"]))["data"]["code"]


async def test_a_client_that_shows_its_pid_gets_its_session_at_once(url: str) -> None:
    async with RawClient(url) as first, RawClient(url) as second:
        for namespace in ("/orders", "/"):
            entered = await first.enter(namespace, clientId="billing")
        assert (await second.enter("/", clientId="billing", pid=entered["pid"]))["pid"] != entered["pid"]
        await first.closed()


@pytest.mark.parametrize(
    "auth", [{"clientId": ""}, {"clientId": 1}, {"ack": "maybe"}, {"events": ["a b"]}, {"from": []}]
)
async def test_auth_that_makes_no_sense_is_refused(url: str, auth: dict[str, object]) -> None:
    async with RawClient(url) as client:
        refused = await client.enter("/orders", **auth)
        assert refused["data"]["retryable"] is False
        assert refused["message"]
        assert (await client.enter("/orders", token="another server's"))["sid"]


async def test_a_drain_sends_everybody_away_to_come_back(url: str, server: Server) -> None:
    async with RawClient(url) as client, RawClient(url) as stranger:
        await client.enter("/orders", clientId="billing")
        draining = asyncio.ensure_future(server.drain())
        await client.closed()
        await stranger.closed()
        await draining


async def test_a_trouble_that_passes_ends_the_connection_so_that_the_client_comes_back(
    url: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def troubled(*_: object) -> None:
        raise StoreUnavailable("the disk is slow")

    async with RawClient(url) as client:
        assert server._socketio is not None
        monkeypatch.setattr(server._socketio, "open_namespace", troubled)
        await client.send("40/orders,")
        assert await client.receive() == "1"
        await client.closed()


async def test_one_that_never_enters_is_closed(url: str, server: Server) -> None:
    assert server._socketio is not None
    server._socketio.hello_timeout_ms = 50
    async with RawClient(url) as client:
        await client.closed()
    async with RawClient(url) as client:
        await client.enter("/orders")
        await client.send("41/orders,")
        await client.closed()


async def test_a_mistake_of_ours_ends_one_connection_and_no_other(
    url: str, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with RawClient(url) as client, RawClient(url) as other:
        await other.enter("/orders", events=[])
        await client.enter("/orders")
        with monkeypatch.context() as patch:
            patch.setattr("tidings.gateways.socketio.natural.draft", lambda *arguments: 1 / 0)
            await client.send('42/orders,["created",1]')
            await client.closed()
        assert "ZeroDivisionError" in caplog.text
        assert (await other.ask("/orders", "created", 1))["sequence"] == 1
