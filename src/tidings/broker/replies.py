"""Replies: what is sent back to whoever waits for it, through memory alone.

1. A reply goes to an address that a client waits at; it is not stored, and where nobody waits it goes nowhere.
2. The first reply to an address counts. One that comes after the time is over finds nobody, and harms nobody.
3. A client whose connection was lost, or that does not read, gets its replies when it is back or reads again: they
   are kept until its time is over, within a bound.
"""

from __future__ import annotations

from typing import Final

from tidings import limits
from tidings.batch import check_headers_size, check_payload_size
from tidings.broker.effects import Answered
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.calls import AwaitReply, Respond
from tidings.errors import InvalidOption, LimitReached
from tidings.model import ReplyInfo

_OVERHEAD_BYTES: Final = 512  # of a kept reply beside its payload


class _Waiting:
    __slots__ = ("number", "reply", "request", "session")

    def __init__(self, number: int, session: Session, request: int) -> None:
        self.number = number
        self.session = session
        self.request = request
        self.reply: ReplyInfo | None = None
        """What came while the client could not be sent it."""


class Replies:
    """The rules of replies, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._waiting: dict[str, _Waiting] = {}
        self._addresses: dict[int, str] = {}
        self._next_number = 1
        self._kept_bytes = 0

    def wait(self, session: Session, request: int, call: AwaitReply) -> None:
        """Lets a client wait at an address, or go on waiting there.

        Raises:
            InvalidOption: address or time are out of their range.
            LimitReached: the client waits for too many.
        """
        if not 1 <= len(call.address) <= limits.ID_LENGTH_MAX or not 0 <= call.wait_ms <= limits.REPLY_WAIT_MS_MAX:
            raise InvalidOption(
                f"an address of {len(call.address)} characters and a wait of {call.wait_ms} ms; they can be 1 to"
                f" {limits.ID_LENGTH_MAX} and 0 to {limits.REPLY_WAIT_MS_MAX}"
            )
        waiting = self._waiting.get(call.address)
        if waiting is None:
            if len(session.replies) >= limits.REPLIES_AWAITED_MAX:
                raise LimitReached(
                    f"this connection waits for {len(session.replies)} replies, the limit is"
                    f" {limits.REPLIES_AWAITED_MAX}; wait for fewer at a time"
                )
            waiting = self._waiting[call.address] = _Waiting(self._next_number, session, request)
            self._addresses[self._next_number] = call.address
            self._next_number += 1
        waiting.session.replies.pop(call.address, None)
        waiting.session, waiting.request = session, request
        session.replies[call.address] = None
        self._state.deadlines.set(("reply", waiting.number), self._state.now_ms + call.wait_ms)
        self._send(call.address, waiting)
        if call.wait_ms == 0 and call.address in self._waiting:
            self._end(call.address)
            self._state.effects.append(Answered(session.connection, request, None))

    def respond(self, session: Session, request: int, call: Respond) -> None:
        """Takes a reply, and tells whether somebody waits for it.

        Raises:
            PayloadTooLarge, InvalidOption: it could not be published like that, either.
        """
        check_payload_size(len(call.payload))
        headers = call.headers or {}
        check_headers_size(headers)
        if len(headers) > limits.HEADERS_MAX:
            raise InvalidOption(f"{len(headers)} headers; a reply has at most {limits.HEADERS_MAX}")
        if not 1 <= len(call.content_type.encode()) <= limits.NAME_SIZE_BYTES_MAX:
            raise InvalidOption(f"a content type has 1 to {limits.NAME_SIZE_BYTES_MAX} bytes")
        waiting = self._waiting.get(call.address)
        taken = waiting is not None and waiting.reply is None
        if waiting is not None and taken:
            waiting.reply = ReplyInfo(
                payload=call.payload, content_type=call.content_type, headers=headers, client_id=session.client_id
            )
            self._kept_bytes += _size_bytes(waiting.reply)
            self._send(call.address, waiting)
            if self._kept_bytes > limits.REPLIES_KEPT_BYTES_MAX and waiting.reply is not None:
                self._kept_bytes -= _size_bytes(waiting.reply)
                waiting.reply = None
                taken = False
        self._state.effects.append(Answered(session.connection, request, taken))

    def overdue(self, number: int) -> None:
        """Tells a client that the time is over."""
        address = self._addresses.get(number)
        if address is not None:
            waiting = self._end(address)
            if self._is_connected(waiting.session):
                self._state.effects.append(Answered(waiting.session.connection, waiting.request, waiting.reply))

    def go_on(self, session: Session) -> None:
        """Sends what was kept for a client that reads again."""
        for address in list(session.replies):
            self._send(address, self._waiting[address])

    def left(self, session: Session, *, farewell: bool) -> None:
        """Waits on for a client whose connection was lost, for a while; after a farewell no more."""
        for address in list(session.replies):
            if farewell:
                self._end(address)
            else:
                due_ms = self._state.now_ms + limits.REPLY_RETURN_MS
                self._state.deadlines.set_at_latest(("reply", self._waiting[address].number), due_ms)

    def _send(self, address: str, waiting: _Waiting) -> None:
        session = waiting.session
        if waiting.reply is not None and self._is_connected(session) and not session.send_buffer_full:
            self._end(address)
            self._state.effects.append(Answered(session.connection, waiting.request, waiting.reply))
            waiting.reply = None

    def _is_connected(self, session: Session) -> bool:
        return self._state.sessions.get(session.connection) is session

    def _end(self, address: str) -> _Waiting:
        waiting = self._waiting.pop(address)
        del self._addresses[waiting.number]
        waiting.session.replies.pop(address, None)
        self._state.deadlines.remove(("reply", waiting.number))
        if waiting.reply is not None:
            self._kept_bytes -= _size_bytes(waiting.reply)
        return waiting


def _size_bytes(reply: ReplyInfo) -> int:
    headers = sum(len(name) + len(value) for name, value in reply.headers.items())
    return len(reply.payload) + headers + _OVERHEAD_BYTES
