"""A request that has no answer yet, pure; and what becomes of it when its connection ends."""

from typing import TypeAlias

import msgspec

from tidings import calls
from tidings.client.subscriber import Subscriber
from tidings.client.waiters import Waiter, answer, refuse
from tidings.errors import ConnectionLost, DeliveryTakenAway
from tidings.wire import (
    Ack,
    Backup,
    Call,
    Delete,
    Done,
    Extend,
    List,
    Listing,
    Nack,
    Subscribe,
    Subscribed,
    Unsubscribe,
)

Answer: TypeAlias = Done | Listing | Subscribed | bytes
"""To a call: the body of its Result."""
Request: TypeAlias = Subscribe | Unsubscribe | Ack | Nack | Extend | List | Delete | Backup | Call


class Pending:
    """A request without an answer."""

    __slots__ = ("call", "frame", "handle", "number", "sent", "sent_before", "waiter")

    def __init__(
        self, number: int, frame: Request, waiter: Waiter[Answer], handle: int, call: calls.Call | None
    ) -> None:
        self.number = number
        self.frame = frame
        self.waiter = waiter
        self.handle = handle
        self.call = call
        self.sent = False
        """On this connection."""
        self.sent_before = False
        """On an earlier connection."""

    def ends_with_connection(self, subscriber: Subscriber | None) -> bool:
        """Takes note that a connection ended; returns whether it is not asked again on the next one, and answered.

        Args:
            subscriber: the one that it is about, if it is still there.
        """
        frame = self.frame
        if isinstance(frame, Nack | Extend):  # sent or not: on the next connection it is another delivery
            refuse(self.waiter, lost(frame, subscriber))
            return True
        if not self.sent:
            return False
        self.sent = False
        self.sent_before = True
        if isinstance(frame, Unsubscribe):
            answer(self.waiter, Done(self.number))
        elif isinstance(frame, Backup):
            text = f"the connection ended before the answer; {frame.path!r} may have been written, look there"
            refuse(self.waiter, ConnectionLost(text))
        elif isinstance(self.call, calls.Schedule):
            text = "the connection ended before the answer; the message may have been scheduled, the list tells"
            refuse(self.waiter, ConnectionLost(text))
        elif isinstance(frame, Ack) and subscriber is None:
            refuse(self.waiter, DeliveryTakenAway("the connection ended before the ack was answered"))
        else:
            return False
        return True


def done_before(pending: Pending) -> Answer | None:
    """Returns the answer that was lost with a connection, if a request finds gone what it was to do away with."""
    if isinstance(pending.frame, Delete):
        return Done(pending.number)
    # What recurs ends only by being cancelled; what does not may have been published instead.
    if isinstance(pending.call, calls.CancelSchedule) and pending.call.handle.count("-") == 2:
        return msgspec.msgpack.encode(None)
    if isinstance(pending.call, calls.DeleteDeadLetters | calls.Redrive):
        return msgspec.msgpack.encode(0 if pending.call.number is None else 1)
    return None


def lost(frame: Nack | Extend, subscriber: Subscriber | None) -> ConnectionLost:
    """Returns what a nack or an extension gets that was lost with its connection."""
    what = "nack" if isinstance(frame, Nack) else "extension"
    fate = subscriber.fate if subscriber is not None else "delivered again"  # without one it was closed meanwhile
    return ConnectionLost(f"the connection ended before the {what} was answered; the message is {fate}")


def too_late(subscriber: Subscriber) -> DeliveryTakenAway:
    """Returns what an ack gets that comes after its subscription was closed."""
    return DeliveryTakenAway(f"subscription {subscriber.name!r} is closed; its unacked messages are {subscriber.fate}")
