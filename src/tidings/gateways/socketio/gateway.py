"""The door of Socket.IO: an ASGI application on the port of HTTP, at /socket.io.

    GET  ?EIO=4&transport=polling            opens a connection, or with sid= waits for what it is to be told
    POST ?EIO=4&transport=polling&sid=       takes what the client says
    WebSocket ?EIO=4&transport=websocket     opens a connection, or with sid= takes over from long polling

What cannot be understood is answered as the reference server does: {"code":1,"message":"Session ID unknown"}.
"""

import asyncio
import secrets
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from tidings import limits
from tidings.errors import ProtocolViolation
from tidings.gateways.scopes import address_of
from tidings.gateways.socketio.connection import Connecting
from tidings.gateways.socketio.engine import Engine, Timing
from tidings.gateways.socketio.explicit import MAIN, open_explicit, spell_explicit
from tidings.gateways.socketio.natural import open_natural, spell_natural
from tidings.gateways.socketio.session import Namespace, Receive, Send, Session, frame_of
from tidings.gateways.spellings import Spellings
from tidings.node import Node

UNKNOWN_TRANSPORT: Final = (0, "Transport unknown")
UNKNOWN_SID: Final = (1, "Session ID unknown")
BAD_METHOD: Final = (2, "Bad handshake method")
BAD_REQUEST: Final = (3, "Bad request")
BAD_VERSION: Final = (5, "Unsupported protocol version")
"""Codes and texts of engine.io's server, which its users look for."""

_STOPS: Final = "the server stops; connect again"
_TEXT: Final = [(b"content-type", b"text/plain; charset=UTF-8"), (b"cache-control", b"no-store")]
_JSON: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class SocketIoGateway:
    """Accepts Socket.IO for a node. An async context manager: left, it ends its connections.

    Args:
        node: the node behind it.
        timing: heartbeats.
        hello_timeout_ms: time that a client has to connect to a namespace.
    """

    def __init__(
        self, node: Node, *, timing: Timing | None = None, hello_timeout_ms: int = limits.HELLO_TIMEOUT_MS
    ) -> None:
        self.node = node
        self.hello_timeout_ms = hello_timeout_ms
        self._timing = timing or Timing()
        self._sessions: dict[str, Session] = {}
        self._tasks = asyncio.TaskGroup()
        self.natural_spellings = Spellings(spell_natural)
        self.explicit_spellings = Spellings(spell_explicit)

    async def __aenter__(self) -> "SocketIoGateway":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in list(self._sessions.values()):
            session.end(_STOPS)
        await self._tasks.__aexit__(kind, error, trace)

    def stop_accepting(self) -> None:
        """Ends the connections that are no clients of the node yet; the node ends the others once it has drained."""
        for session in list(self._sessions.values()):
            if session.conversation is None:
                session.end(_STOPS)

    # --- for sessions ---

    def now_ms(self) -> int:
        """Returns the time of heartbeats."""
        return int(asyncio.get_running_loop().time() * 1000)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something beside everything else."""
        self._tasks.create_task(work)

    def forget(self, session: Session) -> None:
        """Lets no request find a session any more."""
        self._sessions.pop(session.engine.sid, None)

    async def open_namespace(self, session: Session, asked: Connecting) -> Namespace:
        """Lets a client into a namespace.

        Raises:
            TidingsError: why not.
        """
        sid = secrets.token_urlsafe(15)
        if asked.namespace == MAIN:
            return await open_explicit(session, asked, sid)
        return await open_natural(session, asked, sid)

    # --- requests ---

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answers a request, or talks over a WebSocket until it ends."""
        query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        session, wrong = self._find(scope, query)
        if scope["type"] == "websocket":
            await receive()
            if wrong:
                await send({"type": "websocket.close", "code": 1008, "reason": wrong[1]})
            else:
                await self._serve_websocket(scope, session, receive, send)
        elif wrong:
            await _answer(send, 400, msgspec.json.encode({"code": wrong[0], "message": wrong[1]}), _JSON)
        elif scope["method"] == "POST":
            assert session is not None, "only a GET opens a connection"
            await _post(session, receive, send)
        elif session is None:
            session = self._open(scope, websocket=False)
            await _answer(send, 200, session.engine.payload_to_send(self.now_ms()) or b"")
        else:
            await _get(session, receive, send)

    def _find(self, scope: dict[str, Any], query: dict[str, str]) -> tuple[Session | None, tuple[int, str] | None]:
        """Returns the session that a request is for, and what is wrong with it."""
        is_websocket = scope["type"] == "websocket"
        if query.get("transport") != ("websocket" if is_websocket else "polling"):
            return None, UNKNOWN_TRANSPORT
        if query.get("EIO") != "4":
            return None, BAD_VERSION
        sid = query.get("sid")
        method = "GET" if is_websocket else scope["method"]
        if sid is None:
            return None, None if method == "GET" else BAD_METHOD
        session = self._sessions.get(sid)
        if session is None:
            return None, UNKNOWN_SID
        if session.engine.websocket or method not in ("GET", "POST"):
            return session, BAD_REQUEST
        return session, None

    def _open(self, scope: dict[str, Any], *, websocket: bool) -> Session:
        sid = secrets.token_urlsafe(15)
        engine = Engine(sid, self.now_ms(), websocket=websocket, timing=self._timing)
        session = Session(self, engine, address_of(scope))
        self._sessions[sid] = session
        return session

    async def _serve_websocket(
        self, scope: dict[str, Any], session: Session | None, receive: Receive, send: Send
    ) -> None:
        await send({"type": "websocket.accept"})
        if session is None:
            session = self._open(scope, websocket=True)
        elif not await _probe(session, receive, send):
            return
        try:
            await session.serve_websocket(receive, send)
        finally:
            session.end("connection lost")


async def _probe(session: Session, receive: Receive, send: Send) -> bool:
    """Lets a WebSocket take over from long polling; returns whether it did."""
    engine = session.engine
    if engine.probing:
        await send({"type": "websocket.close", "code": 1008, "reason": "there is a WebSocket for it already"})
        return False
    engine.probing = True
    reason = "it was not taken"
    try:
        async with asyncio.timeout(limits.HELLO_TIMEOUT_MS / 1000):
            while not engine.closed:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    return False
                answer = engine.receive_probe(frame_of(message))
                session.wake()
                if answer is None:
                    return True
                await send({"type": "websocket.send", "text": answer})
    except (TimeoutError, ProtocolViolation) as error:
        reason = str(error) or "it took too long"
    finally:
        engine.probing = engine.probed = False
    await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
    return False


async def _get(session: Session, receive: Receive, send: Send) -> None:
    """Waits for something to tell, unless the client goes away before."""
    polling = asyncio.ensure_future(session.poll())
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((polling, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not polling.done():
            session.end("connection lost")
            return
        body = polling.result()
    finally:
        polling.cancel()
        leaving.cancel()
    if body is None:
        await _answer(send, 400, msgspec.json.encode({"code": BAD_REQUEST[0], "message": BAD_REQUEST[1]}), _JSON)
        session.end(session.engine.closed)
    else:
        await _answer(send, 200, body)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _post(session: Session, receive: Receive, send: Send) -> None:
    status, answer = 400, msgspec.json.encode({"code": BAD_REQUEST[0], "message": BAD_REQUEST[1]})
    if session.begin_post():
        try:
            body = await _body(receive)
            if body is None:
                status = 413
                session.end(f"a body of more than {limits.WEBSOCKET_FRAME_BYTES_MAX} bytes")
            else:
                await session.receive_payload(body)
                await _answer(send, 200, b"ok")
                return
        except ProtocolViolation as error:
            answer = msgspec.json.encode({"code": BAD_REQUEST[0], "message": error.text})
        except (TimeoutError, ConnectionError):
            session.end("connection lost")
            status = 408
        finally:
            session.end_post()
    session.end(session.engine.closed)
    await _answer(send, status, answer, _JSON)


async def _body(receive: Receive) -> bytes | None:
    """Returns the body of a request; None if it is too large."""
    pieces: list[bytes] = []
    size = 0
    async with asyncio.timeout(limits.HTTP_BODY_TIMEOUT_MS / 1000):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > limits.WEBSOCKET_FRAME_BYTES_MAX:
                return None
            if not message.get("more_body", False):
                return b"".join(pieces)


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] = _TEXT) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
