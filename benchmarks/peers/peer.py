"""What a workload knows of a peer: how it is started, what a confirm of it means, and five verbs of its client."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

Handle = Callable[[bytes], None]


class Server(NamedTuple):
    """A server that accepts connections. The process is the one that works, for processor time and memory."""

    address: str
    process_id: int


class Connection(Protocol):
    """A connected client of a peer, driven the fastest way that its Python client offers."""

    async def prepare(self, queue: str, subscriptions: Sequence[str]) -> None:
        """Makes a queue and its durable subscriptions; what is published from now on waits for each of them."""

    async def publish_many(self, queue: str, payloads: Iterable[bytes]) -> None:
        """Publishes as fast as it goes; returns when all are confirmed."""

    async def publish(self, queue: str, payload: bytes) -> None:
        """Publishes one message; returns when it is confirmed."""

    async def consume(
        self, queue: str, subscription: str, count: int, handle: Handle | None, attached: Callable[[], None]
    ) -> int:
        """Takes and acks so many messages of a subscription; returns the size of their payloads in bytes.

        Args:
            queue: the queue.
            subscription: one that `prepare` has made.
            count: how many messages to take; when this returns, the last ack is with the server.
            handle: called with each payload; None only counts and adds sizes.
            attached: called once the subscription is attached.
        """


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A queue to measure.

    Args:
        name: what it is called on the command line.
        title: what it is called in a table.
        durability: where a message is when its publish is confirmed.
        syncs: whether an fsync (or fdatasync) comes before each confirm.
        messages_per_second: about what it reaches; it only decides how many messages a run has.
        missing: returns what is not installed, "" if all is there.
        version: returns the versions of server and client.
        serve: starts a server with its data in a directory.
        connect: connects a client, given the server's address and a client id.
    """

    name: str
    title: str
    durability: str
    syncs: bool
    messages_per_second: int
    missing: Callable[[], str]
    version: Callable[[], str]
    serve: Callable[[Path], AbstractContextManager[Server]]
    connect: Callable[[str, str], AbstractAsyncContextManager[Connection]]
