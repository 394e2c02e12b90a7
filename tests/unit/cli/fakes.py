"""A client that records what a verb asks of it and answers from a script."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from tidings.client import DeadLetter, StoredMessage
from tidings.errors import TidingsError
from tidings.model import (
    BYTES,
    JSON,
    ClientInfo,
    Confirm,
    DeadLetterGroup,
    QueueInfo,
    Receipt,
    ScheduledInfo,
    SubscriptionInfo,
)


@dataclass
class FakeMessage:
    queue: str = "orders"
    event: str = "created"
    data: bytes = b'{"id": 7}'
    content_type: str = JSON
    id: str | None = None
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    sequence: int = 1
    time_ms: int = 1_700_000_000_123
    attempt: int = 1
    acks: list[tuple[int, bool]] = field(default_factory=list)
    ack_error: TidingsError | None = None

    async def ack(self, *, wait: bool = False, timeout: float | None = None) -> None:
        if self.ack_error is not None:
            raise self.ack_error
        self.acks.append((self.sequence, wait))


class FakeSubscription:
    def __init__(self, messages: Iterable[FakeMessage]) -> None:
        self._messages = iter(messages)
        self.closed = False

    async def __aenter__(self) -> "FakeSubscription":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    def __aiter__(self) -> "FakeSubscription":
        return self

    async def __anext__(self) -> FakeMessage:
        for message in self._messages:
            return message
        raise StopAsyncIteration


class FakeClient:
    """Answers from its attributes; `error` is raised by every verb once `fail_after` messages are published."""

    def __init__(self) -> None:
        self.url = ""
        self.options: dict[str, Any] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.published: list[bytes] = []
        self.batches: list[int] = []
        self.messages: list[FakeMessage] = []
        self.client_infos: list[ClientInfo] = []
        self.queue_infos: list[QueueInfo] = []
        self.subscription_infos: list[SubscriptionInfo] = []
        self.scheduled_infos: list[ScheduledInfo] = []
        self.receipt_infos: list[Receipt] = []
        self.groups: list[DeadLetterGroup] = []
        self.letters: list[DeadLetter] = []
        self.stored: list[StoredMessage] = []
        self.error: TidingsError | None = None
        self.fail_after = 0
        self.closed = False

    def connect(self, url: str, **options: Any) -> "FakeClient":
        self.url, self.options = url, options
        return self

    async def __aenter__(self) -> "FakeClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    def _fail(self) -> None:
        if self.error is not None and len(self.published) >= self.fail_after:
            raise self.error

    def _store(self, queue: str, payloads: list[bytes]) -> Confirm:
        first = len(self.published) + 1
        self.published.extend(payloads)
        return Confirm(queue, first, 1, len(payloads), "disk", 0)

    async def publish(
        self, queue: str, event: str, payload: Any, *, headers: Any = None, id: Any = None, key: Any = None,
        content_type: str = BYTES, timeout: float | None = None, **later: Any,
    ) -> Confirm:  # fmt: skip
        self._fail()
        self.calls.append(("publish", queue, event, payload, headers, id, key, content_type))
        later = {name: value for name, value in later.items() if value is not None}
        if later:
            self.calls.append(("later", later))
            return Confirm(queue, 0, 0, 1, "disk", 0, handle="1700000000000-7")
        return self._store(queue, [payload])

    async def receipts(self, queue: str, sequence: int) -> list[Receipt]:
        self._fail()
        self.calls.append(("receipts", queue, sequence))
        return self.receipt_infos

    async def schedules(self) -> AsyncIterator[ScheduledInfo]:
        self._fail()
        for info in self.scheduled_infos:
            yield info

    async def cancel_schedule(self, handle: str) -> None:
        self._fail()
        self.calls.append(("cancel_schedule", handle))

    async def publish_many(
        self, queue: str, event: str, payloads: Iterable[bytes], *, content_type: str, timeout: float | None = None
    ) -> list[Confirm]:
        self._fail()
        listed = list(payloads)
        self.calls.append(("publish_many", queue, event, content_type))
        self.batches.append(len(listed))
        return [self._store(queue, listed)]

    def subscribe(self, queue: str, event: str | None = None, **options: Any) -> FakeSubscription:
        self._fail()
        self.calls.append(("subscribe", queue, event, options))
        return FakeSubscription(self.messages)

    async def clients(self) -> list[ClientInfo]:
        self._fail()
        return self.client_infos

    async def queues(self) -> list[QueueInfo]:
        self._fail()
        return self.queue_infos

    async def subscriptions(self) -> list[SubscriptionInfo]:
        self._fail()
        return self.subscription_infos

    async def delete_queue(self, name: str) -> None:
        self._fail()
        self.calls.append(("delete_queue", name))

    async def delete_subscription(self, name: str) -> None:
        self._fail()
        self.calls.append(("delete_subscription", name))

    async def backup(self, path: str) -> None:
        self._fail()
        self.calls.append(("backup", path))

    async def configure_subscription(self, name: str, **settings: Any) -> None:
        self._fail()
        self.calls.append(
            ("configure_subscription", name, {key: each for key, each in settings.items() if each is not None})
        )

    async def configure_client(self, client_id: str, **quotas: Any) -> None:
        self._fail()
        self.calls.append(("configure_client", client_id, quotas))

    async def configure_queue(self, name: str, **settings: Any) -> None:
        self._fail()
        self.calls.append(("configure_queue", name, settings))

    async def peek(self, queue: str, *, start: Any, count: int) -> list[StoredMessage]:
        self._fail()
        self.calls.append(("peek", queue, start, count))
        return self.stored

    async def purge(self, queue: str) -> int:
        self._fail()
        self.calls.append(("purge", queue))
        return 2_000

    async def delete_message(self, queue: str, sequence: int) -> None:
        self._fail()
        self.calls.append(("delete_message", queue, sequence))

    async def dead_letter_groups(self, subscription: str) -> list[DeadLetterGroup]:
        self._fail()
        return self.groups

    async def dead_letters(
        self, subscription: str, *, fingerprint: str | None = None, after: int = 0, limit: int | None = None
    ) -> AsyncIterator[DeadLetter]:
        self._fail()
        chosen = [
            letter for letter in self.letters if letter.number > after and fingerprint in (None, letter.fingerprint)
        ]
        for letter in chosen[:limit]:
            yield letter

    async def edit_dead_letter(self, subscription: str, number: int, **changes: Any) -> None:
        self._fail()
        self.calls.append(("edit_dead_letter", subscription, number, changes))

    async def delete_dead_letters(self, subscription: str, **chosen: Any) -> int:
        self._fail()
        self.calls.append(("delete_dead_letters", subscription, chosen))
        return len(self.letters)

    async def redrive(self, subscription: str, **chosen: Any) -> int:
        self._fail()
        self.calls.append(("redrive", subscription, chosen))
        return 2_000
