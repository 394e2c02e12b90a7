"""The client for code without asyncio: the same verbs, each waiting until it is done.

Nothing is implemented twice: an asynchronous client lives on an event loop in a thread of its own, and every verb
here runs its namesake there. A client may be used from several threads.
"""

from collections.abc import Sequence
from datetime import timedelta
from os import PathLike

from tidings.client.dead_letters import DeadLetter
from tidings.connect import DEFAULT_URL
from tidings.connect import connect as _connect
from tidings.sync.client import Client, Transaction
from tidings.sync.subscription import Message, MessageBatch, Subscription


def connect(
    url: str | PathLike[str] | Sequence[str] = DEFAULT_URL,
    *,
    client_id: str | None = None,
    take_over: bool = False,
    reconnect: bool | int | timedelta = True,
    timeout: float = 30.0,
) -> Client:
    """Returns a client, to be used as `with tidings.sync.connect(...) as client`; arguments as `tidings.connect`."""
    return Client(_connect(url, client_id=client_id, take_over=take_over, reconnect=reconnect, timeout=timeout))


__all__ = ["Client", "DeadLetter", "Message", "MessageBatch", "Subscription", "Transaction", "connect"]
