"""What a queue holds, as the application sees it without a subscription; the verbs that look at it and remove it."""

from typing import Any

import msgspec

from tidings import calls, limits
from tidings.client.decoding import PLAIN
from tidings.client.options import Start, start_of, within
from tidings.client.requests import Requests


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as its queue holds it. `published` is UTC milliseconds since 1970."""

    queue: str
    epoch: int
    sequence: int
    event: str
    data: bytes = msgspec.field(name="payload")
    """The payload as it was published: not decoded."""
    content_type: str
    id: str | None
    key: str | None
    headers: dict[str, str]
    published: int

    @property
    def payload(self) -> Any:
        """The payload: JSON decoded, other content types as bytes.

        Raises:
            InvalidPayload: it is not valid JSON.
        """
        return PLAIN.decode_of(f"message {self.sequence} of queue {self.queue!r}", self.data, self.content_type)


class History(Requests):
    """The verbs of a client for what queues hold."""

    async def peek(
        self, queue: str, *, start: Start = "earliest", count: int = 10, timeout: float | None = 30.0
    ) -> list[StoredMessage]:
        """Returns messages as their queue holds them, whoever has settled them; looking changes nothing.

        Args:
            queue: its name.
            start: "earliest", a sequence or a datetime with time zone, from where on; "latest" is the last ones.
            count: at most so many, 1 to 1,000.
            timeout: time limit in seconds.

        Returns:
            The messages in order; fewer than asked for where the queue ends, or where more would be above 2 MiB. Ask
            again from after the last one. What was deleted, or cannot be read, is left out.

        Raises:
            NotFound: there is no such queue.
            InvalidOption: start or count are out of their range.
        """
        word, value = start_of(start, "start")
        count_max = within(count, limits.PEEK_COUNT_MAX, "count") or 1
        call = calls.Peek(queue=queue, start=word, value=value, count_max=count_max)
        found: list[StoredMessage] = await self._call(call, timeout, list[StoredMessage])
        return found

    async def purge(self, queue: str, *, timeout: float | None = 30.0) -> int:
        """Empties a queue; durable on return. It stays, with its settings and subscriptions, and goes on counting.

        What waited for a subscription is told to it as a gap. Who has a message in flight may still ack it; it is not
        delivered again.

        Returns:
            How many messages the queue held.

        Raises:
            NotFound: there is no such queue.
            SystemQueue: it is the server's own.
            TimedOut: the time limit passed; it may be purged.
        """
        count: int = await self._call(calls.Purge(queue=queue), timeout)
        return count

    async def delete_message(self, queue: str, sequence: int, *, timeout: float | None = 30.0) -> None:
        """Takes one message out of a queue; durable on return.

        A subscription that did not have it yet is told a gap in its place. Who has it in flight may still ack it; it
        is not delivered again. Its bytes leave the data file with the row that it was stored in.

        Raises:
            NotFound: there is no such queue, or no such message in it.
            SystemQueue: the queue is the server's own.
            LimitReached: too many messages of the queue are deleted and still in the data file.
            TimedOut: the time limit passed; it may be deleted.
        """
        await self._call(calls.DeleteMessage(queue=queue, sequence=sequence), timeout)
