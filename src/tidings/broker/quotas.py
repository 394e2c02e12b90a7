"""Quotas: how much one client may ask of the server, and how much may be asked of one queue.

1. A rate is kept on average: who has been quiet may publish what a second allows at once. A batch is taken or refused
   as a whole, also where it is more than that; what it takes too much is waited for before the next one.
2. What is refused for its rate is refused for the moment, and the text says for how long.
3. Whom no quota is set for pays nothing for those of others.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET

from tidings.batch import Batch
from tidings.broker.answers import answered_when_durable
from tidings.broker.deliveries import Deliveries
from tidings.broker.filters import Filter
from tidings.broker.inputs import Input, Tick
from tidings.broker.queues import Queue
from tidings.broker.sessions import Client, Session
from tidings.broker.state import BrokerState
from tidings.calls import ConfigureClient
from tidings.errors import InvalidOption, LimitReached, QuotaExceeded
from tidings.model import ClientQuotas, QueueSettings, check_label

_BURST_MS: Final = 1_000
MOST: Final = 2**53
"""Largest quota: what every JSON reader keeps exact."""


class Rate:
    """So many a second, on average."""

    __slots__ = ("_paid_to_ms", "per_s")

    def __init__(self, per_s: int, now_ms: int) -> None:
        self.per_s = per_s
        self._paid_to_ms = float(now_ms - _BURST_MS)  # what was taken is what passes until then

    def wait_ms(self, now_ms: int) -> int:
        """Returns for how long nothing may be taken."""
        return max(0, -int(now_ms - self._paid_to_ms))

    def take(self, count: int, now_ms: int) -> None:
        """Takes so many, which may be more than are left."""
        self._paid_to_ms = max(self._paid_to_ms, now_ms - _BURST_MS) + 1000 * count / self.per_s


class Quota:
    """The rates of one client, or of one queue."""

    __slots__ = ("messages", "rates", "size_bytes", "what")

    def __init__(self, what: str, rate: int | None, rate_bytes: int | None, now_ms: int) -> None:
        self.what = what
        self.rates = rate, rate_bytes
        self.messages = None if rate is None else Rate(rate, now_ms)
        self.size_bytes = None if rate_bytes is None else Rate(rate_bytes, now_ms)

    def check(self, now_ms: int) -> None:
        """Raises QuotaExceeded if nothing may be published now."""
        for rate, unit in ((self.messages, "messages"), (self.size_bytes, "bytes")):
            if rate is not None and (wait_ms := rate.wait_ms(now_ms)):
                raise QuotaExceeded(
                    f"{self.what} may publish {rate.per_s} {unit} a second, and has published more; publish again in"
                    f" {max(1, wait_ms) / 1000:g} s, or raise its quota"
                )

    def take(self, batch: Batch, now_ms: int) -> None:
        """Counts a batch."""
        if self.messages is not None:
            self.messages.take(batch.count, now_ms)
        if self.size_bytes is not None:
            self.size_bytes.take(len(batch.body), now_ms)


class Quotas:
    """The rules of quotas, on the broker's state."""

    def __init__(self, state: BrokerState, deliveries: Deliveries) -> None:
        self._state = state
        self._deliveries = deliveries
        self._has_rates = False  # whether there ever were any

    # --- setting them ---

    def configure(self, session: Session, request: int, call: ConfigureClient) -> None:
        """Changes the quotas of a client id, which is known from then on.

        Raises:
            InvalidName: it is no client id.
            InvalidOption: a quota is out of its range.
        """
        state = self._state
        check_label(call.client_id, "client id")
        given: dict[str, Any] = {
            name: value
            for name in call.__struct_fields__
            if name != "client_id" and (value := getattr(call, name)) is not UNSET
        }
        for name, value in given.items():
            check_quota(name, value)
        client = state.clients.get(call.client_id)
        if client is None:
            client = state.clients[call.client_id] = Client(call.client_id, "", "", state.now_ms)
        client.quotas = msgspec.structs.replace(client.quotas, **given)
        state.changed(client)
        self.client_changed(client)
        answered_when_durable(state, session.connection, request, None)

    def client_changed(self, client: Client) -> None:
        """Lets the quotas of a client hold from now on."""
        client.quota = self._made(f"client {client.client_id!r}", client.quotas, client.quota)
        session = self._state.client_ids.get(client.client_id)
        if session is not None:
            self.connected(session)
            self._pump(session)

    def queue_changed(self, queue: Queue) -> None:
        """Lets the quotas of a queue hold from now on."""
        queue.quota = self._made(f"queue {queue.name!r}", queue.settings, queue.quota)

    def begin(self) -> None:
        """Lets those that were set before a restart hold."""
        for queue in self._state.queues.values():
            self.queue_changed(queue)
        for client in self._state.clients.values():
            self.client_changed(client)

    def _made(self, what: str, given: ClientQuotas | QueueSettings, former: Quota | None) -> Quota | None:
        if given.publish_rate is None and given.publish_rate_bytes is None:
            return None
        if former is not None and former.rates == (given.publish_rate, given.publish_rate_bytes):
            return former  # something else was changed, and what is owed is owed still
        self._has_rates = True
        return Quota(what, given.publish_rate, given.publish_rate_bytes, self._state.now_ms)

    # --- publishing ---

    def admit(self, session: Session, batches: list[tuple[str, Batch]]) -> None:
        """Counts what is published.

        Raises:
            QuotaExceeded: it is too much for the moment; nothing was counted.
        """
        if not self._has_rates:
            return
        now_ms = self._state.now_ms
        found: list[tuple[Quota, Batch]] = []
        client = self._client(session)
        for name, batch in batches:
            queue = self._state.queues.get(name)
            if client is not None and client.quota is not None:
                found.append((client.quota, batch))
            if queue is not None and queue.quota is not None:
                found.append((queue.quota, batch))
        for quota, _ in found:
            quota.check(now_ms)
        for quota, batch in found:
            quota.take(batch, now_ms)

    # --- subscribing ---

    def admit_subscription(self, session: Session, chosen: Filter) -> None:
        """Raises LimitReached if a client may make no further subscription, or a queue may have none."""
        state = self._state
        client = self._client(session)
        most = client.quotas.subscriptions_max if client is not None else None
        if client is not None and most is not None:
            owned = {item.number for item in state.subscriptions.values() if item.client_id == client.client_id}
            owned.update(each.subscription.number for each in session.subscribers.values())
            if len(owned) >= most:
                raise LimitReached(
                    f"client {client.client_id!r} has {len(owned)} subscriptions, its quota is {most}; delete some, or"
                    " raise its quota"
                )
        names = [chosen.queue] if chosen.literal else [name for name in state.queues if chosen.wants_queue(name)]
        for name in names:
            queue = state.queues.get(name)
            most = queue.settings.subscriptions_max if queue is not None else None
            if queue is not None and most is not None and len(queue.cursors) >= most:
                raise LimitReached(
                    f"queue {name!r} has {len(queue.cursors)} subscriptions, its quota is {most}; delete some, or raise"
                    " its quota"
                )

    # --- in flight ---

    def connected(self, session: Session) -> None:
        """Lets the quota of a client's messages in flight hold for its session."""
        client = self._client(session)
        session.in_flight_max = client.quotas.in_flight_max if client is not None else None
        if session.in_flight_max is None:
            self._state.limited.pop(session.connection, None)
        else:
            self._state.limited[session.connection] = session

    def left(self, session: Session) -> None:
        """Forgets a session."""
        self._state.limited.pop(session.connection, None)

    def go_on(self, input: Input) -> None:
        """Lets the subscriptions of a limited client use the room that others of them made; of all with each tick."""
        limited = self._state.limited
        if isinstance(input, Tick):
            sessions = list(limited.values())
        else:
            session = limited.get(getattr(input, "connection", 0))
            sessions = [] if session is None else [session]
        for session in sessions:
            self._pump(session)

    def _pump(self, session: Session) -> None:
        for subscriber in session.subscribers.values():
            self._deliveries.pump(subscriber.subscription)

    def _client(self, session: Session) -> Client | None:
        return None if session.client_id is None else self._state.clients.get(session.client_id)


def check_quota(name: str, value: int | None) -> None:
    """Raises InvalidOption if a quota is out of its range."""
    least = 0 if name == "subscriptions_max" else 1
    if value is not None and not least <= value <= MOST:
        raise InvalidOption(f"{name} is {value}; it can be {least} to {MOST}, or no limit")
