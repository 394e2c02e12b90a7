"""Clients of the doors, as the gateway contract wants them."""

import itertools
import json
from collections import deque
from typing import Any, Self

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect

import tidings
from tests.unit.gateways.http.event_source import Event, EventSource
from tests.unit.gateways.socketio.raw import RawClient
from tidings.broker import effects, inputs
from tidings.client import Client
from tidings.client.message import Message
from tidings.client.subscription import Subscription
from tidings.errors import ConnectionLost, from_code
from tidings.gateways.messages import parse_start
from tidings.node import Attachment, Conversation, Draft, Node, open_conversation
from tidings.testing.gateway_contract import DEADLINE_S, Missed, Received


class NativeClient:
    """Over the native door: the Python client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._subscription: Subscription | None = None
        self._messages: Any = None
        self._gaps = 0
        self._next: Message | None = None

    @classmethod
    async def connect(cls, url: str) -> Self:
        return cls(await tidings.connect(url).__aenter__())

    async def publish(self, queue: str, event: str, payload: object) -> int:
        return (await self._client.publish(queue, event, payload)).sequence

    async def subscribe(self, queue: str, event: str, *, name: str, start: Any, in_flight_max: int) -> None:
        options: dict[str, Any] = {"in_flight_max": in_flight_max} if in_flight_max else {}
        self._subscription = self._client.subscribe(queue, event, name=name, start=start, **options)
        await self._subscription.__aenter__()
        self._messages = aiter(self._subscription)

    async def receive(self) -> Received | Missed:
        assert self._subscription is not None
        if self._next is None:
            self._next = await anext(self._messages)
        if len(self._subscription.gaps) > self._gaps:
            gap = self._subscription.gaps[self._gaps]
            self._gaps += 1
            return Missed(gap.queue, gap.first_sequence, gap.last_sequence, gap.reason)
        message, self._next = self._next, None
        return Received(message.queue, message.event, message.sequence, message.payload, message.attempt, message)

    async def ack(self, received: Received) -> None:
        assert isinstance(received.handle, Message)
        await received.handle.ack(wait=True)

    async def nack(self, received: Received, *, delay_ms: int) -> None:
        assert isinstance(received.handle, Message)
        await received.handle.nack(delay=delay_ms / 1000, wait=True)

    async def close(self) -> None:
        await self._client.close()

    async def lose(self) -> None:
        await self._client._supervisor.stop(ConnectionLost("broken off"))


class ConversationClient:
    """Over no door at all: what a door inside the server's process is made on."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.attachment: Attachment | None = None

    @classmethod
    async def connect(cls, node: Node) -> Self:
        return cls(await open_conversation(node, client_id=None, protocol="test", address="here"))

    async def publish(self, queue: str, event: str, payload: object) -> int:
        [confirm] = await self.conversation.publish(queue, [Draft(event, msgspec.json.encode(payload))])
        return confirm.first_sequence

    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        begin, value = parse_start(start)
        wanted = inputs.Subscribe(
            queue=queue, event=event, name=name, start=begin, start_value=value, in_flight_max=in_flight_max
        )
        self.attachment = await self.conversation.subscribe(wanted)

    async def receive(self) -> Received | Missed:
        assert self.attachment is not None
        item = await self.attachment.next()
        if isinstance(item, effects.Gap):
            return Missed(item.queue, item.first_sequence, item.last_sequence, item.reason)
        place = (item.epoch, item.sequence, item.sequence)
        payload = msgspec.json.decode(item.payload)
        return Received(item.queue, item.event, item.sequence, payload, item.attempt, place)

    async def ack(self, received: Received) -> None:
        assert self.attachment is not None
        await self.attachment.ack([received.handle])  # type: ignore[list-item]

    async def nack(self, received: Received, *, delay_ms: int) -> None:
        assert self.attachment is not None
        await self.attachment.nack([received.handle], delay_ms=delay_ms)  # type: ignore[list-item]

    async def close(self) -> None:
        self.conversation.close()

    async def lose(self) -> None:
        self.conversation.close(farewell=False, reason="connection lost")


class EventStreamClient:
    """Over HTTP: Server-Sent Events of a subscription; publishing and settling are requests beside them."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False)
        self._stream: Any = None
        self._source: EventSource | None = None
        self._name = ""

    async def publish(self, queue: str, event: str, payload: object) -> int:
        answer = await self._http.post(f"/queues/{queue}/events/{event}", json=payload)
        _check(answer)
        return int(answer.json()["sequence"])

    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        parameters: dict[str, Any] = {"queue": queue, "event": event, "from": start}
        if in_flight_max:
            parameters["in_flight_max"] = in_flight_max
        stream = self._http.stream("GET", f"/subscriptions/{name}/events", params=parameters)
        response = await stream.__aenter__()
        if response.status_code != 200:
            await response.aread()
            await stream.__aexit__(None, None, None)
            _check(response)
        self._name, self._stream, self._source = name, stream, EventSource(response)
        await self._source.opened()

    async def receive(self) -> Received | Missed:
        assert self._source is not None
        event = await self._source.next()
        data = event.data
        if event.type == "$gap":
            return Missed(data["queue"], data["first_sequence"], data["last_sequence"], data["reason"])
        return Received(data["queue"], event.type, data["sequence"], data["payload"], data["attempt"], event)

    async def ack(self, received: Received) -> None:
        await self._settle("ack", received)

    async def nack(self, received: Received, *, delay_ms: int) -> None:
        await self._settle("nack", received, delay_ms=delay_ms)

    async def _settle(self, verb: str, received: Received, **more: object) -> None:
        assert isinstance(received.handle, Event)
        body = {"positions": [received.handle.id], **more}
        _check(await self._http.post(f"/subscriptions/{self._name}/{verb}", json=body))

    async def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.__aexit__(None, None, None)
        await self._http.aclose()

    async def lose(self) -> None:
        await self.close()  # its end is all that a server sees of a reader


class PullClient:
    """Over HTTP: each message is asked for by a request, and settled by another."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False)
        self._path = ""
        self._taken: deque[Received | Missed] = deque()

    async def publish(self, queue: str, event: str, payload: object) -> int:
        answer = await self._http.post(f"/queues/{queue}/events/{event}", json=payload)
        _check(answer)
        return int(answer.json()["sequence"])

    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        path = f"/subscriptions/{name}"
        wanted = {"queue": queue, "event": event, "start": start, "in_flight_max": in_flight_max}
        _check(await self._http.put(path, json=wanted))
        self._path = path
        # With the first pull it is held. Of the messages none is taken by it, and gaps are kept.
        _check(await self._http.post(f"{path}/pause"))
        await self._pull(queue=queue, event=event)
        _check(await self._http.post(f"{path}/resume"))

    async def receive(self) -> Received | Missed:
        while not self._taken:
            await self._pull(wait=DEADLINE_S)
        return self._taken.popleft()

    async def _pull(self, **parameters: Any) -> None:
        answer = await self._http.get(f"{self._path}/messages", params={"max": 1, **parameters})
        _check(answer)
        for gap in answer.json()["gaps"]:
            self._taken.append(Missed(gap["queue"], gap["first_sequence"], gap["last_sequence"], gap["reason"]))
        for each in answer.json()["messages"]:
            place = (each["queue"], each["event"], each["sequence"])
            self._taken.append(Received(*place, each["payload"], each["attempt"], each["position"]))

    async def ack(self, received: Received) -> None:
        _check(await self._http.post(f"{self._path}/ack", json={"positions": [received.handle]}))

    async def nack(self, received: Received, *, delay_ms: int) -> None:
        body = {"positions": [received.handle], "delay_ms": delay_ms}
        _check(await self._http.post(f"{self._path}/nack", json=body))

    async def close(self) -> None:
        if not self._http.is_closed:
            if self._path:
                await self._http.delete(f"{self._path}/hold")
            await self._http.aclose()

    async def lose(self) -> None:
        await self.close()  # there is no connection to lose; without this its hold would end by itself, later


def _check(response: httpx.Response) -> None:
    if response.is_error:
        problem = response.json()
        raise from_code(problem["code"], problem["detail"])


class WebSocketClient:
    """Over WebSocket: plain JSON. It reads only while somebody waits for something."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._others: deque[Any] = deque()
        self._subscription = ""

    @classmethod
    async def connect(cls, url: str) -> Self:
        return cls(await connect(url.replace("http://", "ws://") + "/ws", proxy=None, max_size=None))

    async def _ask(self, type: str, **fields: object) -> Any:
        number = next(self._numbers)
        await self._connection.send(json.dumps({"type": type, "request": number, **fields}))
        while (frame := json.loads(await self._connection.recv())).get("request") != number:
            self._others.append(frame)
        if frame["type"] == "error":
            raise from_code(frame["code"], frame["text"])
        return frame

    async def publish(self, queue: str, event: str, payload: object) -> int:
        return int((await self._ask("publish", queue=queue, event=event, payload=payload))["sequence"])

    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        more = {"in_flight_max": in_flight_max} if in_flight_max else {}
        answer = await self._ask("subscribe", queue=queue, event=event, name=name, **{"from": start}, **more)
        self._subscription = answer["subscription"]

    async def receive(self) -> Received | Missed:
        frame = self._others.popleft() if self._others else json.loads(await self._connection.recv())
        if frame["type"] == "gap":
            gap = frame["gap"]
            return Missed(gap["queue"], gap["first_sequence"], gap["last_sequence"], gap["reason"])
        message = frame["message"]
        return Received(
            message["queue"],
            message["event"],
            message["sequence"],
            message["payload"],
            message["attempt"],
            message["position"],
        )

    async def ack(self, received: Received) -> None:
        await self._ask("ack", subscription=self._subscription, position=received.handle)

    async def nack(self, received: Received, *, delay_ms: int) -> None:
        await self._ask("nack", subscription=self._subscription, position=received.handle, delay_ms=delay_ms)

    async def close(self) -> None:
        await self._connection.close()

    async def lose(self) -> None:
        self._connection.transport.abort()


class SocketIoClient:
    """Over Socket.IO: verbs on the default namespace. It reads, and answers pings, only while somebody waits."""

    def __init__(self, connection: RawClient) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._others: deque[str] = deque()

    @classmethod
    async def connect(cls, url: str) -> Self:
        connection = await RawClient(url).__aenter__()
        await connection.enter()
        return cls(connection)

    async def _ask(self, verb: str, **options: object) -> Any:
        number = next(self._numbers)
        await self._connection.send(f"42{number}{json.dumps([verb, options])}")
        while not (frame := await self._connection.receive()).startswith(f"43{number}["):
            self._others.append(frame)
        answer = json.loads(frame[2 + len(str(number)) :])[0]
        if "error" in answer:
            raise from_code(answer["error"]["code"], answer["error"]["text"])
        return answer

    async def publish(self, queue: str, event: str, payload: object) -> int:
        return int((await self._ask("publish", queue=queue, event=event, payload=payload))["sequence"])

    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        options = {"queue": queue, "event": event, "as": name, "from": start, "in_flight_max": in_flight_max}
        await self._ask("subscribe", **options)

    async def receive(self) -> Received | Missed:
        frame = self._others.popleft() if self._others else await self._connection.receive()
        number, bracket, rest = frame[2:].partition("[")
        kind, told = json.loads(bracket + rest)
        if kind == "gap":
            return Missed(told["queue"], told["first_sequence"], told["last_sequence"], told["reason"])
        assert kind == "message", kind
        return Received(told["queue"], told["event"], told["sequence"], told["payload"], told["attempt"], number)

    async def ack(self, received: Received) -> None:
        await self._settle(f"43{received.handle}[]")

    async def nack(self, received: Received, *, delay_ms: int) -> None:
        await self._settle(f"43{received.handle}{json.dumps([{'nack': True, 'delay_ms': delay_ms}])}")

    async def _settle(self, frame: str) -> None:
        # An acknowledgement has no answer in this protocol; what is asked after it is answered after it.
        await self._connection.send(frame)
        await self._ask("queues")

    async def close(self) -> None:
        await self._connection.socket.close()

    async def lose(self) -> None:
        self._connection.socket.transport.abort()
