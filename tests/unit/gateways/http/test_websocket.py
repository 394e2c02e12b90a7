"""The WebSocket door: its frames, in the order of requests and around them, and what is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import tidings
from tests.integration.processes import eventually
from tidings import limits

DEADLINE_S = 10


class Socket:
    """A client that speaks JSON over `websockets`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.others: list[dict[str, Any]] = []
        self._number = 0

    async def send(self, type: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": type, **fields}))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            return json.loads(await self.connection.recv())  # type: ignore[no-any-return]

    async def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Sends a request and returns its answer; what comes meanwhile is kept for `next`."""
        self._number += 1
        await self.send(type, request=self._number, **fields)
        while (answer := await self.receive()).get("request") != self._number:
            self.others.append(answer)
        return answer

    async def next(self) -> dict[str, Any]:
        """Returns the next frame that answers nothing."""
        return self.others.pop(0) if self.others else await self.receive()

    async def closed(self) -> tuple[int, str]:
        """Waits until the server ends it; returns code and reason."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


@asynccontextmanager
async def socket(url: str, path: str = "/ws", **options: Any) -> AsyncIterator[Socket]:
    async with connect(url.replace("http://", "ws://") + path, proxy=None, **options) as connection:
        yield Socket(connection)


async def test_a_message_goes_from_publish_to_ack(url: str) -> None:
    async with socket(url) as client:
        assert await client.ask("subscribe", queue="orders", name="billing") == {
            "type": "subscribed",
            "request": 1,
            "subscription": "billing",
            "durable": True,
            "created": True,
        }
        confirmed = await client.ask(
            "publish", queue="orders", event="created", payload={"id": 7}, key="k", id="i", headers={"trace": "x"}
        )
        epoch = confirmed["epoch"]
        assert confirmed == {
            "type": "confirmed",
            "request": 2,
            "queue": "orders",
            "sequence": 1,
            "epoch": epoch,
            "durability": "memory",
            "subscriptions": 1,
        }
        frame = await client.next()
        message = frame["message"]
        assert (frame["type"], frame["subscription"]) == ("message", "billing")
        assert message == {
            "queue": "orders",
            "event": "created",
            "sequence": 1,
            "epoch": epoch,
            "position": f"{epoch:x}-1",
            "time": message["time"],
            "attempt": 1,
            "payload": {"id": 7},
            "key": "k",
            "id": "i",
            "headers": {"trace": "x"},
        }
        acked = await client.ask("ack", subscription="billing", position=message["position"])
        assert acked == {"type": "done", "request": 3}
        again = await client.ask("publish", queue="orders", event="created", payload=1, id="i")
        assert (again["sequence"], again["duplicate_of"]) == (1, 1)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ({"payload": None}, {"payload": None}),
        ({"payload": [1.5, "ü"]}, {"payload": [1.5, "ü"]}),
        ({"payload": "hi\n", "content_type": "text/plain"}, {"payload": "hi\n", "content_type": "text/plain"}),
        ({"payload_base64": "AP8="}, {"payload_base64": "AP8=", "content_type": "application/octet-stream"}),
        ({"payload_base64": "e30=", "content_type": "application/json"}, {"payload": {}}),
    ],
)
async def test_payloads_of_all_kinds_arrive_as_they_were(
    url: str, sent: dict[str, Any], received: dict[str, Any]
) -> None:
    async with socket(url) as client:
        await client.ask("subscribe", queue="q")
        await client.ask("publish", queue="q", event="e", **sent)
        message = (await client.next())["message"]
        assert received.items() <= message.items()
        assert {"payload", "payload_base64", "content_type"} & message.keys() == received.keys()


async def test_what_is_nacked_comes_again_and_what_is_rejected_does_not(url: str, native: str) -> None:
    async with socket(url) as client:
        await client.ask("subscribe", queue="q", name="s")
        for payload in (1, 2):
            await client.ask("publish", queue="q", event="e", payload=payload)
        first, second = [(await client.next())["message"] for _ in range(2)]
        failure = {"type": "ValueError", "text": "no vat"}
        await client.ask("nack", subscription="s", position=first["position"], delay_ms=1, failure=failure)
        await client.ask("nack", subscription="s", positions=[second["position"]], reject=True, failure=failure)
        again = (await client.next())["message"]
        assert (again["payload"], again["attempt"]) == (1, 2)
        await client.ask("extend", subscription="s", position=again["position"])
        await client.ask("ack", subscription="s", position=again["position"])
        async with tidings.connect(native) as other:
            [letter] = [letter async for letter in other.dead_letters("s")]
            assert (letter.payload, letter.failure.type) == (2, "ValueError")


async def test_what_is_not_acked_comes_again_over_the_next_connection(url: str) -> None:
    async with socket(url, "/ws?client_id=billing") as client:
        name = (await client.ask("subscribe", queue="orders"))["subscription"]
        await client.ask("publish", queue="orders", event="created", payload=1)
        await client.next()
    async with socket(url, "/ws?client_id=billing") as client:
        assert (await client.ask("subscribe", name=name))["created"] is False
        message = (await client.next())["message"]
        assert (message["payload"], message["attempt"]) == (1, 1)


async def test_a_subscription_that_is_not_durable_is_acked_by_writing(url: str, native: str) -> None:
    async with socket(url) as client:
        name = (await client.ask("subscribe", queue="orders"))["subscription"]
        await client.ask("publish", queue="orders", event="created", payload=1)
        await client.next()
        async with tidings.connect(native) as other:

            async def settled() -> bool:
                return [info.lag for info in await other.subscriptions() if info.name == name] == [0]

            await eventually(settled)


async def test_a_subscription_chooses_by_headers_and_begins_with_the_last_of_each_event(url: str) -> None:
    async with socket(url) as client:
        for event, region, payload in [("a", "eu", 1), ("b", "us", 2), ("a", "eu", 3), ("b", "eu", 4), ("a", "us", 5)]:
            headers = {"region": region}
            await client.ask("publish", queue="orders", event=event, payload=payload, headers=headers)
        await client.ask("subscribe", queue="orders", headers=["region=eu"], **{"from": "earliest"})
        assert [(await client.next())["message"]["payload"] for _ in range(3)] == [1, 3, 4]
        await client.ask("subscribe", queue="orders", name="state", **{"from": "last"})
        assert [(await client.next())["message"]["payload"] for _ in range(2)] == [4, 5]


async def test_who_hands_back_positions_goes_on_exactly_there(url: str) -> None:
    async with socket(url) as client:
        await client.ask("publish", queue="orders.eu", event="e", payload=0)
        begun = (await client.ask("subscribe", queue="orders.*"))["position"]
        for queue, payload in [("orders.eu", 1), ("orders.us", 2), ("orders.eu", 3)]:
            await client.ask("publish", queue=queue, event="e", payload=payload)
        messages = [(await client.next())["message"] for _ in range(3)]
    positions = [message["position"] for message in messages if message["payload"] < 3]
    async with socket(url) as client:
        answer = await client.ask("subscribe", queue="orders.*", positions=[begun, *positions])
        assert sorted(answer["position"].split(".")) == sorted(positions)
        assert (await client.next())["message"]["payload"] == 3
    async with socket(url) as client:
        await client.ask("subscribe", queue="orders.*", positions=[*positions, "1-7"])
        gap = (await client.next())["gap"]
        assert (gap["epoch"], gap["first_sequence"], gap["last_sequence"]) == (1, 8, None)
        assert (await client.next())["message"]["payload"] == 3


async def test_who_comes_back_to_queues_of_which_there_were_none_gets_what_appeared_meanwhile(url: str) -> None:
    async with socket(url) as client:
        begun = (await client.ask("subscribe", queue="orders.*"))["position"]
    async with socket(url) as client:
        await client.ask("publish", queue="orders.eu", event="e", payload=1)
        await client.ask("subscribe", queue="orders.*", position=begun)
        assert (await client.next())["message"]["payload"] == 1


async def test_the_position_that_subscribed_tells_is_taken_back_however_many_queues_there_are(url: str) -> None:
    async with socket(url) as client:
        for number in range(limits.POSITION_QUEUES_MAX + 1):
            await client.ask("publish", queue=f"orders.{number}", event="e", payload=number)
        begun = (await client.ask("subscribe", queue="orders.*"))["position"]
    async with socket(url) as client:
        await client.ask("publish", queue="orders.0", event="e", payload="after it")
        answer = await client.ask("subscribe", queue="orders.*", position=begun)
        assert answer["position"] == begun
        assert (await client.next())["message"]["payload"] == "after it"


async def test_what_was_acked_on_write_and_not_received_comes_again_to_who_hands_back_its_position(url: str) -> None:
    async with socket(url) as client:
        begun = (await client.ask("subscribe", queue="orders", name="s", ack="write"))["position"]
        for payload in (1, 2):
            await client.ask("publish", queue="orders", event="e", payload=payload)
        first, _ = (await client.next())["message"], await client.next()
    async with socket(url) as client:
        refused = await client.ask("subscribe", name="s", position=first["position"])
        assert (refused["code"], "cursor" in refused["text"]) == ("invalid_option", True)
        await client.ask("subscribe", name="s", position=first["position"], ack="write")
        assert (await client.next())["message"]["payload"] == 2
    async with socket(url) as client:
        await client.ask("subscribe", name="s", position=begun, ack="write")
        assert [(await client.next())["message"]["payload"] for _ in range(2)] == [1, 2]


async def test_a_request_is_replied_to_by_who_handles_it(url: str, native: str) -> None:
    async with socket(url) as client, socket(url) as service:
        await service.ask("subscribe", queue="rates", event="quote", name="rates")
        wanted = {"queue": "rates", "event": "quote", "payload": {"amount": 100}, "headers": {"a": "b"}}
        await client.send("request", request="r", **wanted)
        await client.send("publish", request="p", queue="rates", event="quote", payload="after it")
        assert (await client.receive())["request"] == "p"
        asked, after = [(await service.next())["message"] for _ in range(2)]
        assert (asked["payload"], after["payload"]) == ({"amount": 100}, "after it")
        assert (asked["headers"]["a"], "headers" in after) == ("b", False)
        reply = {"to": asked["headers"]["$reply-to"], "payload": {"price": 108}, "headers": {"zone": "UTC"}}
        assert await service.ask("respond", **reply) == {"type": "responded", "request": 2, "awaited": True}
        assert await client.receive() == {
            "type": "reply",
            "request": "r",
            "reply": {"payload": {"price": 108}, "headers": {"zone": "UTC"}},
        }
        assert (await service.ask("respond", **reply))["awaited"] is False
    async with (
        tidings.connect(native, client_id="rates") as python,
        python.subscribe("rates", "bytes") as subscription,
        socket(url) as client,
    ):
        await client.send("request", request=1, queue="rates", event="bytes", payload_base64="AAE=")
        message = await anext(aiter(subscription))
        assert (message.is_request, message.payload) == (True, b"\0\1")
        assert await message.respond(b"\2") is True
        reply = (await client.receive())["reply"]
        content_type = "application/octet-stream"
        assert reply == {"payload_base64": "Ag==", "content_type": content_type, "client_id": "rates"}


async def test_a_request_that_nobody_answers_is_an_error(url: str) -> None:
    async with socket(url) as client:
        nobody = await client.ask("request", queue="rates", event="quote", payload=1)
        assert (nobody["code"], "rates/quote" in nobody["text"]) == ("unanswered", True)
        await client.ask("subscribe", queue="rates", **{"from": "earliest"})
        late = await client.ask("request", queue="rates", event="quote", payload=2, timeout_ms=1)
        assert (late["code"], late["retryable"]) == ("timed_out", True)
        for message in [(await client.next())["message"] for _ in range(2)]:
            told = await client.ask("respond", to=message["headers"]["$reply-to"], payload=1)
            assert told["awaited"] is False, message


async def test_requests_that_wait_hold_up_nothing_else(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with socket(url) as client:
        await client.ask("subscribe", queue="rates")
        count = limits.WEBSOCKET_REQUESTS_MAX + 10
        for number in range(count):
            await client.send("request", request=f"r{number}", queue="rates", event="quote", payload=number)
        asked = [(await client.next())["message"] for _ in range(count)]
        assert [message["payload"] for message in asked] == list(range(count))
        for message in asked:
            await client.send("respond", request="told", to=message["headers"]["$reply-to"], payload=message["payload"])
        found = [await client.next() for _ in range(2 * count)]
        replies = {frame["request"]: frame["reply"]["payload"] for frame in found if frame["type"] == "reply"}
        assert replies == {f"r{number}": number for number in range(count)}
        assert (await client.ask("ping"))["type"] == "pong"


async def test_unsubscribed_nothing_comes_and_the_durable_one_stays(url: str) -> None:
    async with socket(url) as client:
        await client.ask("subscribe", queue="orders", name="s")
        assert (await client.ask("unsubscribe", subscription="s"))["type"] == "done"
        await client.ask("publish", queue="orders", event="created", payload=1)
        assert (await client.ask("ping"))["type"] == "pong"
        assert client.others == []
        assert (await client.ask("unsubscribe", subscription="s"))["code"] == "not_found"
        await client.ask("subscribe", name="s")
        assert (await client.next())["message"]["payload"] == 1


async def test_a_connection_has_a_subscription_once_and_goes_on_with_it(url: str) -> None:
    async with socket(url) as client:
        for _ in range(2):
            await client.send("subscribe", request="x", queue="orders", name="team", shared=True)
        answers = sorted([await client.receive(), await client.receive()], key=lambda answer: str(answer["type"]))
        assert [answer["type"] for answer in answers] == ["error", "subscribed"]
        assert answers[0]["code"] == "refused"
        for number in range(10):
            await client.ask("publish", queue="orders", event="created", payload=number)
        for number in range(10):
            message = (await client.next())["message"]
            assert message["payload"] == number
            await client.ask("ack", subscription="team", position=message["position"])


async def test_publishes_keep_their_order_and_many_wait_for_their_confirms_at_once(url: str) -> None:
    async with socket(url) as client:
        await client.ask("subscribe", queue="q")
        count = 3 * limits.WEBSOCKET_REQUESTS_MAX
        for number in range(count):
            await client.send("publish", request=f"r{number}", queue="q", event="e", payload=number)
        confirmed: list[int] = []
        received: list[int] = []
        while len(confirmed) + len(received) < 2 * count:
            frame = await client.next()
            if frame["type"] == "confirmed":
                confirmed.append(int(frame["request"][1:]))
            else:
                received.append(frame["message"]["payload"])
        assert received == list(range(count))
        assert sorted(confirmed) == list(range(count))


@pytest.mark.parametrize(
    ("text", "request_number", "words"),
    [
        ("", None, "JSON"),
        ("hello", None, "JSON"),
        ("[1]", None, "object"),
        ("{}", None, "type"),
        ('{"type": "shout", "request": 5}', 5, "shout"),
        ('{"type": "publish", "request": 6}', 6, "queue"),
        ('{"type": "ping", "request": 7, "colour": 1}', 7, "colour"),
        ('{"type": "ping", "request": "x", "colour": 1}', "x", "colour"),
        ('{"type": "publish", "request": 8, "queue": 5, "event": "e", "payload": 1}', 8, "queue"),
        ('{"type": "publish", "request": 9, "queue": "q", "event": "e"}', 9, "payload"),
        ('{"type": "publish", "request": 1, "queue": "q", "event": "a b", "payload": 1}', 1, "event"),
        ('{"type": "publish", "request": 1, "queue": "$q", "event": "e", "payload": 1}', 1, "server's own"),
        ('{"type": "publish", "request": 1, "queue": "q", "event": "e", "payload_base64": "?"}', 1, "Base64"),
        (
            '{"type": "publish", "request": 1, "queue": "q", "event": "e", "payload": 1, "content_type": "text/x"}',
            1,
            "",
        ),
        ('{"type": "subscribe", "request": 1}', 1, "queue"),
        ('{"type": "subscribe", "request": 1, "name": "nobody"}', 1, "nobody"),
        ('{"type": "subscribe", "request": 1, "queue": "q", "from": "then"}', 1, "earliest"),
        ('{"type": "subscribe", "request": 1, "queue": "q", "headers": ["=x"]}', 1, "header"),
        ('{"type": "subscribe", "request": 1, "queue": "q", "position": "here"}', 1, "position"),
        ('{"type": "subscribe", "request": 1, "name": "s", "headers": ["a"]}', 1, "headers"),
        ('{"type": "request", "request": 1, "queue": "q", "event": "a b", "payload": 1}', 1, "event"),
        (
            '{"type": "request", "request": 1, "queue": "q", "event": "e", "payload": 1, "timeout_ms": 0}',
            1,
            "timeout_ms",
        ),
        ('{"type": "respond", "request": 1, "payload": 1}', 1, "to"),
        ('{"type": "respond", "request": 1, "to": "x"}', 1, "payload"),
        ('{"type": "ack", "request": 1, "subscription": "s", "position": "1-1"}', 1, "subscription"),
        ('{"type": "ack", "request": 1, "subscription": "mine"}', 1, "position"),
        ('{"type": "nack", "request": 1, "subscription": "mine", "positions": []}', 1, "position"),
        ('{"type": "extend", "subscription": "mine"}', None, "position"),
        ("[" * 100_000, None, ""),
    ],
)
async def test_what_is_not_understood_is_an_error_and_costs_nothing_else(
    url: str, text: str, request_number: object, words: str
) -> None:
    async with socket(url) as client:
        await client.ask("subscribe", queue="other", name="mine")
        await client.connection.send(text)
        error = await client.receive()
        assert error["type"] == "error"
        assert error.get("request") == request_number
        assert words in error["text"]
        await client.ask("publish", queue="other", event="e", payload=1)
        assert (await client.next())["message"]["payload"] == 1


async def test_bytes_are_an_error_and_cost_nothing_else(url: str) -> None:
    async with socket(url) as client:
        await client.connection.send(b"\0\1")
        assert (await client.receive())["code"] == "invalid_option"
        assert (await client.ask("ping"))["type"] == "pong"


async def test_too_large_a_frame_ends_the_connection(url: str) -> None:
    async with socket(url) as client:
        await client.connection.send("x" * (limits.WEBSOCKET_FRAME_BYTES_MAX + 1))
        assert (await client.closed())[0] == 1009


async def test_a_largest_payload_fits(url: str) -> None:
    async with socket(url, max_size=None) as client:
        await client.ask("subscribe", queue="q")
        await client.ask("publish", queue="q", event="e", payload="x" * (limits.PAYLOAD_SIZE_BYTES_MAX - 2))
        assert len((await client.next())["message"]["payload"]) == limits.PAYLOAD_SIZE_BYTES_MAX - 2
        large = await client.ask("publish", queue="q", event="e", payload="x" * limits.PAYLOAD_SIZE_BYTES_MAX)
        assert large["code"] == "payload_too_large"


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("client_id=a%20b", 4400, "invalid_name"),
        ("clientid=a", 4400, "invalid_option"),
        ("take_over=perhaps", 4400, "invalid_option"),
        ("client_id=taken", 4409, "client_id_in_use"),
    ],
)
async def test_who_cannot_come_in_is_told_why(url: str, query: str, code: int, reason: str) -> None:
    async with socket(url, "/ws?client_id=taken"), socket(url, f"/ws?{query}") as client:
        told = await client.receive()
        assert (told["type"], told["code"]) == ("error", reason)
        assert await client.closed() == (code, reason)


async def test_who_is_taken_over_is_told(url: str) -> None:
    async with socket(url, "/ws?client_id=a") as former, socket(url, "/ws?client_id=a&take_over=true") as client:
        assert (await former.receive())["code"] == "taken_over"
        assert await former.closed() == (4409, "taken_over")
        assert (await client.ask("ping"))["type"] == "pong"


async def test_a_goodbye_counts_no_attempt_and_a_lost_connection_does(url: str, native: str) -> None:
    for code, attempt in ((1000, 1), (None, 2)):
        async with socket(url) as client:
            await client.ask("subscribe", queue="q", name=f"s{code}")
            await client.ask("publish", queue="q", event="e", payload=1)
            await client.next()
            if code is None:
                client.connection.transport.abort()
        async with tidings.connect(native) as other:

            async def free() -> bool:
                return not any(info.connected for info in await other.subscriptions())

            await eventually(free)
        async with socket(url) as client:
            await client.ask("subscribe", name=f"s{code}")
            assert (await client.next())["message"]["attempt"] == attempt


async def test_pages_of_strangers_cannot_connect(url: str) -> None:
    for options in ({"origin": "https://evil.example"}, {"additional_headers": {"Host": "evil.example"}}):
        with pytest.raises(InvalidStatus) as refused:
            async with socket(url, **options):
                pass
        assert refused.value.response.status_code == 403
    async with socket(url, origin="https://app.example") as client:
        assert (await client.ask("ping"))["type"] == "pong"


async def test_nothing_is_compressed(url: str) -> None:
    async with socket(url, compression="deflate") as client:
        assert client.connection.response is not None
        assert "sec-websocket-extensions" not in client.connection.response.headers


async def test_http_is_told_to_connect_as_a_websocket(http: httpx.AsyncClient) -> None:
    answer = await http.get("/ws")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert answer.json()["status"] == 426
