"""The WebSocket door, `/ws`: plain JSON, one object in each frame, see `websocket_frames`.

1. A connection is one client: `/ws?client_id=NAME`, with `take_over=true` if it may replace another process. It ends
   with a frame `error` and close code 4000 + the HTTP status of the error.
2. Requests are handled in the order of their frames, and many at once: at most WEBSOCKET_REQUESTS_MAX that are not
   answered. Beyond that, and while the node takes no more, the socket is not read. One that waits for a reply does not
   count: REPLIES_AWAITED_MAX of them do.
3. Answers go before deliveries; deliveries are taken from their subscriptions only when there is room to write them.
4. What a client sends that is not understood is answered with `error`, and costs it nothing else.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, assert_never
from urllib.parse import parse_qsl

import msgspec
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from tidings import limits
from tidings.broker import effects, inputs
from tidings.calls import Respond
from tidings.errors import InvalidOption, NotFound, Refused, TidingsError
from tidings.gateways.http import websocket_frames as frames
from tidings.gateways.http.door import Door
from tidings.gateways.http.problems import PROBLEM, plain_problem
from tidings.gateways.messages import (
    GapEntry,
    confirm_entry,
    forgotten_entries,
    gap_entry,
    new_payload,
    parse_begin,
    places_of,
    reply_entry,
    spell_position,
    standing,
)
from tidings.gateways.scopes import address_of
from tidings.model import Failure, parse_header_filters
from tidings.node import Attachment, Conversation, Draft, Request, begin_request, open_conversation
from tidings.node.drafts import batches

PROTOCOL: Final = "websocket"
_CLOSE_CODES: Final = 4_000  # the private ones begin here (RFC 6455, section 7.4.2)
_NORMAL: Final = 1_000


class WebSocketDoor:
    """An ASGI application, to be mounted at `/ws`.

    Args:
        door: what the HTTP door shares.
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != ScopeType.WEBSOCKET:
            await _refuse(send)
            return
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        news = asyncio.Event()
        try:
            conversation = await self._welcome(scope, news)
        except TidingsError as error:
            await _close(send, error)
            return
        await _Connection(conversation, self._door, news).serve(receive, send)

    async def _welcome(self, scope: Scope, news: asyncio.Event) -> Conversation:
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        client_id, take_over = given.pop("client_id", None), given.pop("take_over", "false")
        if given:
            raise InvalidOption(f"parameter {next(iter(given))!r} is not known here; there are client_id, take_over")
        if take_over not in ("true", "false"):
            raise InvalidOption(f"take_over={take_over!r}; write true or false")
        return await open_conversation(
            self._door.node,
            client_id=client_id,
            protocol=PROTOCOL,
            address=address_of(scope),
            take_over=take_over == "true",
            closed=lambda error: news.set(),
        )


class _Attached:
    """A subscription of the connection."""

    def __init__(self, attachment: Attachment, gaps: list[GapEntry], *, settles: bool) -> None:
        self.attachment = attachment
        self.head = frames.message_head(attachment.name)
        self.gaps = gaps
        """What is told before the first message."""
        self.settles = settles


class _Connection:
    """One client's connection; `news` is set when there is something to write, or the conversation has ended."""

    def __init__(self, conversation: Conversation, door: Door, news: asyncio.Event) -> None:
        self._conversation = conversation
        self._node = door.node
        self._spellings = door.spellings
        self._attached: dict[str, _Attached] = {}
        self._answers: deque[frames.ServerFrame] = deque()
        self._room = asyncio.Semaphore(limits.WEBSOCKET_REQUESTS_MAX)
        self._news = news
        self._left = False  # whether the client said goodbye

    async def serve(self, receive: Receive, send: Send) -> None:
        """Serves it until it ends, whoever ends it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(receive, tasks))
                writing = tasks.create_task(self._write(send))
                await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
                raise _Ended
        except* _Ended:
            pass  # the tasks of requests under way were cancelled with it
        except* OSError:
            pass  # uvicorn's way to say that the client is gone
        finally:
            self._conversation.close(farewell=self._left, reason="closed" if self._left else "connection lost")

    # --- requests ---

    async def _read(self, receive: Receive, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._room.acquire()
            said: Any = await receive()
            if said["type"] == "websocket.disconnect":
                self._left = said.get("reason") is not None  # a frame of the client, not the end of its connection
                return
            text = said.get("text")
            if text is None:
                self._answer(_error(InvalidOption("frames are text, in UTF-8; bytes go as payload_base64")))
                continue
            try:
                frame = frames.decode(text)
            except TidingsError as error:
                self._answer(_error(error, frames.number_of(text)))
                continue
            if isinstance(frame, frames.Publish | frames.Request):
                # Begun here and not in its task: publishes keep their order.
                await self._publish(frame, tasks)
            else:
                tasks.create_task(self._answered(frame, self._handle(frame)))

    async def _answered(self, frame: frames.ClientFrame, work: Coroutine[Any, Any, frames.ServerFrame | None]) -> None:
        try:
            answer = await work
        except TidingsError as error:
            answer = _error(error, frame.request)
        if answer is None:
            self._room.release()
        else:
            self._answer(answer)

    def _answer(self, frame: frames.ServerFrame) -> None:
        """Lets a frame be written that stands for a request; there is room for another one then."""
        self._answers.append(frame)
        self._news.set()

    async def _publish(self, frame: frames.Publish | frames.Request, tasks: asyncio.TaskGroup) -> None:
        try:
            payload, content_type = new_payload(frame.payload, frame.payload_base64, frame.content_type)
            draft = Draft(frame.event, payload, content_type, frame.id, frame.key, frame.headers)
            if isinstance(frame, frames.Request):
                address = self._node.fresh_token()
                begun = await begin_request(
                    self._conversation, frame.queue, draft, address=address, wait_ms=frame.timeout_ms
                )
                self._room.release()
                tasks.create_task(self._answered(frame, self._replied(frame, begun)))
                return
            [batch] = batches([draft])
            confirming = await self._conversation.publish_batch(frame.queue, batch)
        except TidingsError as error:
            self._answer(_error(error, frame.request))
            return
        tasks.create_task(self._answered(frame, self._confirmed(frame, confirming)))

    async def _replied(self, frame: frames.Request, begun: Request) -> frames.ServerFrame:
        try:
            reply = await begun.reply()
        except TidingsError:
            await self._room.acquire()
            raise
        # Its answer is one of those that wait to be written.
        await self._room.acquire()
        return frames.Reply(request=frame.request, reply=reply_entry(reply))

    async def _confirmed(
        self, frame: frames.Publish, confirming: "asyncio.Future[effects.Confirm]"
    ) -> frames.ServerFrame:
        entry = confirm_entry(frame.queue, await confirming, self._node.store.durability)
        return frames.Confirmed(request=frame.request, **msgspec.structs.asdict(entry))

    async def _handle(
        self,
        frame: frames.Respond
        | frames.Subscribe
        | frames.Ack
        | frames.Nack
        | frames.Extend
        | frames.Unsubscribe
        | frames.Ping,
    ) -> frames.ServerFrame | None:
        match frame:
            case frames.Respond():
                payload, content_type = new_payload(frame.payload, frame.payload_base64, frame.content_type)
                call = Respond(address=frame.to, payload=payload, content_type=content_type, headers=frame.headers)
                return frames.Responded(request=frame.request, awaited=bool(await self._conversation.call(call)))
            case frames.Subscribe():
                return await self._subscribe(frame)
            case frames.Ack():
                await self._find(frame.subscription).attachment.ack(frame.ranges)
            case frames.Nack():
                failure = Failure(frame.failure.type, frame.failure.text) if frame.failure else None
                await self._find(frame.subscription).attachment.nack(
                    frame.ranges, delay_ms=frame.delay_ms, reject=frame.reject, failure=failure
                )
            case frames.Extend():
                await self._find(frame.subscription).attachment.extend(frame.ranges)
            case frames.Unsubscribe():
                attached = self._find(frame.subscription)
                del self._attached[frame.subscription]
                await attached.attachment.detach()
            case frames.Ping():
                return frames.Pong(request=frame.request)
            case _:
                assert_never(frame)
        return None if frame.request is msgspec.UNSET else frames.Done(request=frame.request)

    async def _subscribe(self, frame: frames.Subscribe) -> frames.ServerFrame:
        if frame.queue is None and frame.name is None:
            raise InvalidOption("say which queue to subscribe to, or the name of a subscription that there is")
        if frame.queue is None and (frame.event is not None or frame.headers):
            raise InvalidOption("event and headers are for a queue; name it, or leave them out to take what there is")
        durable = frame.name is not None or self._conversation.client_id is not None
        on_write = frame.ack == "write" if frame.ack else not durable
        places = places_of(frame.all_positions)
        if places and not on_write:
            raise InvalidOption(
                "a durable subscription goes on at its cursor; leave position out, or ask for ack: write, or seek"
            )
        # Who was there before must not miss what came meanwhile.
        start, value = parse_begin("earliest" if places else str(frame.start))
        wanted = inputs.Subscribe(
            queue=frame.queue or "",
            event=frame.event or "#",
            headers=parse_header_filters(frame.headers),
            name=frame.name,
            resume=[inputs.Resume(epoch, sequence, []) for epoch, sequence in places.items()],
            rewinds=durable and on_write,
            start=start,
            start_value=value,
            shared=frame.shared,
            in_flight_max=frame.in_flight_max or 0,
            ack_timeout_ms=frame.ack_timeout_ms or 0,
            attempts_max=frame.attempts_max or 0,
        )
        attachment = await self._conversation.subscribe(wanted, self._news.set)
        if attachment.name in self._attached:  # a shared one lets itself be attached twice, and has one name here
            await attachment.detach()
            raise Refused(f"this connection has subscription {attachment.name!r} already")
        begins = standing(attachment.places, places) if attachment.durable else dict(attachment.places)
        gaps: list[GapEntry] = []
        if attachment.created or not attachment.durable:
            gaps = forgotten_entries(frame.queue or "", places, {} if attachment.durable else begins)
        self._attached[attachment.name] = _Attached(attachment, gaps, settles=on_write)
        self._news.set()
        return frames.Subscribed(
            request=frame.request,
            subscription=attachment.name,
            durable=attachment.durable,
            created=attachment.created,
            position=spell_position(begins) if begins else None,
        )

    def _find(self, name: str) -> _Attached:
        attached = self._attached.get(name)
        if attached is None:
            raise NotFound(f"this connection has no subscription {name!r}; use the name that `subscribed` told")
        return attached

    # --- deliveries ---

    async def _write(self, send: Send) -> None:
        while True:
            self._news.clear()
            await self._write_answers(send)
            if self._conversation.error:
                await _close(send, self._conversation.error)
                return
            busy = [await self._write_deliveries(send, name) for name in list(self._attached)]
            if not any(busy):
                await self._news.wait()

    async def _write_answers(self, send: Send) -> None:
        while self._answers:
            await _send(send, self._answers.popleft())
            self._room.release()

    async def _write_deliveries(self, send: Send, name: str) -> bool:
        """Writes some of what a subscription was delivered; returns whether there may be more."""
        for _ in range(_TURN):
            attached = self._attached.get(name)
            while attached and attached.gaps:
                await _send(send, frames.Gap(subscription=name, gap=attached.gaps.pop(0)))
            item = attached.attachment.take() if attached else None
            if attached is None or item is None:
                return False
            if isinstance(item, effects.Gap):
                first, last = item.first_sequence, item.last_sequence
                await _send(send, frames.Gap(subscription=name, gap=gap_entry(item)))
            else:
                first = last = item.sequence
                await _send_text(send, b"%b%b}" % (attached.head, self._spellings.of(item)))
            if attached.settles:
                attached.attachment.ack_soon([(item.epoch, first, last)])
        return True


_TURN: Final = 64  # deliveries of one subscription until it is another one's turn, and that of answers


class _Ended(Exception):
    """The connection ended."""


def _error(error: TidingsError, request: frames.RequestNumber = msgspec.UNSET) -> frames.Error:
    return frames.Error(request=request, code=error.code, text=error.text, retryable=error.retryable)


async def _send(send: Send, frame: frames.ServerFrame) -> None:
    await _send_text(send, frames.encode(frame))


async def _send_text(send: Send, text: bytes) -> None:
    await send({"type": "websocket.send", "bytes": None, "text": text.decode()})


async def _close(send: Send, error: TidingsError) -> None:
    await _send(send, _error(error))
    await send({"type": "websocket.close", "code": _CLOSE_CODES + error.status, "reason": error.code})


async def _refuse(send: Send) -> None:
    body = msgspec.json.encode(plain_problem(426, "this is a WebSocket: connect to it as one"))
    headers = [
        (b"content-type", PROBLEM.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"upgrade", b"websocket"),
    ]
    await send({"type": "http.response.start", "status": 426, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
