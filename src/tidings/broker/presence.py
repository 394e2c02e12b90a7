"""Presence: who is connected, attached and subscribed, as listings and as messages on `$presence`.

A client is announced when it connects with a client id, an anonymous one when it first publishes or
subscribes: who only asks for listings is neither announced nor listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from heapq import nsmallest
from itertools import islice
from operator import itemgetter
from typing import TypeVar

import msgspec

from tidings import limits
from tidings.batch import Batch, encode_item
from tidings.broker.cursors import Cursor
from tidings.broker.publishing import Publishing
from tidings.broker.sessions import Client, Session
from tidings.broker.state import BrokerState
from tidings.broker.subscribers import Subscriber
from tidings.broker.subscriptions import Subscription
from tidings.errors import InvalidOption
from tidings.model import PRESENCE_QUEUE, ClientInfo, ClientQuotas, QueueInfo, Run, SubscriberInfo, SubscriptionInfo

I = TypeVar("I")  # noqa: E741  an entry of a listing


class Presence:
    """What the broker tells about its clients."""

    def __init__(self, state: BrokerState, publishing: Publishing) -> None:
        self._state = state
        self._publishing = publishing

    # --- messages ---

    def announce(self, session: Session) -> None:
        """Tells that a client is connected, once."""
        session.only_looks = False
        if not session.announced:
            session.announced = True
            self._state.changed(session)
            self._publish("connected", _who(session))

    def disconnected(self, session: Session, reason: str) -> None:
        """Tells that a client is gone, if it was announced."""
        if session.announced:
            self._state.ledger.deleted(session.key, self._state.now_ms)
            self._publish("disconnected", _who(session) | {"reason": reason})

    def lost(self, token: str, client_id: str | None, address: str, protocol: str) -> None:
        """Tells that a client is gone that was connected when the server ended without a word."""
        self._state.ledger.deleted(f"session/{token}", self._state.now_ms)
        who = {"client_id": client_id, "address": address, "protocol": protocol}
        self._publish("disconnected", who | {"reason": "the server stopped"})

    def subscribed(self, session: Session, subscription: Subscription) -> None:
        """Tells that a client is attached to a subscription."""
        self._publish("subscribed", _who(session) | _what(subscription))

    def unsubscribed(self, session: Session, subscription: Subscription) -> None:
        """Tells that a client detached from a subscription."""
        self._publish("unsubscribed", _who(session) | _what(subscription))

    def _publish(self, event: str, payload: Mapping[str, object]) -> None:
        body = encode_item(msgspec.json.encode(payload), None, None, None)
        self._publishing.publish_own(PRESENCE_QUEUE, Batch([Run(event, 1, len(body))], body))

    # --- listings ---

    def listing(
        self, what: str, after: str, name: str | None = None
    ) -> tuple[list[ClientInfo] | list[QueueInfo] | list[SubscriptionInfo], str]:
        """Returns a page of a listing from after a key, and the key that continues it ("" at the end).

        With the name of a queue or a subscription it is that one alone, looked up and not searched for.

        Raises:
            InvalidOption: there is no such listing.
        """
        if what == "clients":
            return _page(self._clients(), after)
        if what == "queues":
            names = self._state.queues if name is None else self._state.queues.keys() & {name}
            shown = [each for each in names if self._state.queues[each].owner is None]
            return _page([(each, partial(self._queue, each)) for each in shown], after)
        if what == "subscriptions" and name is not None:
            item = self._state.subscriptions.get(name)
            return _page(self._entries(item) if item else [], after)
        if what == "subscriptions":
            return _page(self._subscriptions(after), after)
        raise InvalidOption(f"there is no listing of {what!r}; there are 'clients', 'queues' and 'subscriptions'")

    def _clients(self) -> list[tuple[str, Callable[[], ClientInfo]]]:
        owned: dict[str | None, list[Subscription]] = {}
        for subscription in self._state.subscriptions.values():
            if subscription.durable:
                owned.setdefault(subscription.client_id, []).append(subscription)
        entries: list[tuple[str, Callable[[], ClientInfo]]] = [
            (f"{session.client_id or '~'}\0{connection}", partial(self._connected, session, owned))
            for connection, session in self._state.sessions.items()
            if not session.only_looks
        ]
        entries += [
            (f"{client_id}\0", partial(self._away, client, owned.get(client_id, [])))
            for client_id, client in self._state.clients.items()
            if client_id not in self._state.client_ids
        ]
        return entries

    def _connected(self, session: Session, owned: dict[str | None, list[Subscription]]) -> ClientInfo:
        attached = {
            subscriber.subscription.name: subscriber.subscription for subscriber in session.subscribers.values()
        }
        if session.client_id is not None:
            attached |= {subscription.name: subscription for subscription in owned.get(session.client_id, [])}
        known = self._state.clients.get(session.client_id) if session.client_id is not None else None
        queues = set(session.queues)
        for subscription in attached.values():
            queues |= {cursor.queue.shown_as for cursor in subscription.cursors.values()}
        return ClientInfo(
            client_id=session.client_id,
            address=session.address,
            protocol=session.protocol,
            connected=True,
            connected_since=session.connected_ms,
            last_seen=self._state.now_ms,
            queues=_first(queues),
            subscriptions=_first(attached),
            waiting=sum(subscription.outstanding() for subscription in attached.values()),
            quotas=known.quotas if known is not None else ClientQuotas(),
        )

    def _away(self, client: Client, owned: list[Subscription]) -> ClientInfo:
        return ClientInfo(
            client_id=client.client_id,
            address=client.address,
            protocol=client.protocol,
            connected=False,
            connected_since=None,
            last_seen=client.last_seen_ms,
            queues=_first({cursor.queue.shown_as for item in owned for cursor in item.cursors.values()}),
            subscriptions=_first(subscription.name for subscription in owned),
            waiting=sum(subscription.outstanding() for subscription in owned),
            quotas=client.quotas,
        )

    def _queue(self, name: str) -> QueueInfo:
        queue = self._state.queues[name]
        slowest = queue.slowest()
        return QueueInfo(
            name=name,
            epoch=queue.epoch,
            first_sequence=queue.first_kept,
            last_sequence=queue.committed,
            messages=queue.messages,
            bytes=queue.size_bytes,
            subscriptions=len(queue.cursors),
            held_by=slowest.subscription.name if slowest else None,
            created=queue.created_ms,
            paused=queue.paused,
            settings=queue.settings,
        )

    def _subscriptions(self, after: str) -> list[tuple[str, Callable[[], SubscriptionInfo]]]:
        """Returns the entries of the subscriptions from the one in which a page ended, one for each queue.

        As many as a page needs: one of 500 entries costs the same among 500 subscriptions and among 100,000.
        """
        entries: list[tuple[str, Callable[[], SubscriptionInfo]]] = []
        skipped = 0
        name = after.partition("\0")[0]
        for item in self._state.subscriptions_from(name):
            # Those of the one in which the last page ended may all be before it.
            if len(entries) - skipped > limits.LISTING_PAGE_COUNT:
                break
            entries += self._entries(item)
            if item.name == name:
                skipped = sum(key <= after for key, _ in entries)
        return entries

    def _entries(self, item: Subscription) -> list[tuple[str, Callable[[], SubscriptionInfo]]]:
        shown: list[tuple[str, Callable[[], SubscriptionInfo]]] = [
            (f"{item.name}\0{cursor.queue.name}", partial(self._subscription, item, cursor))
            for cursor in item.cursors.values()
            # Of what was redriven there may be nothing left.
            if cursor.queue.owner is None or cursor.settled_to != cursor.queue.committed
        ]
        return shown or [(f"{item.name}\0", partial(self._subscription, item, None))]

    def _subscription(self, item: Subscription, cursor: Cursor | None) -> SubscriptionInfo:
        settled_to = cursor.settled_to if cursor else 0
        committed = cursor.queue.committed if cursor else 0
        return SubscriptionInfo(
            name=item.name,
            client_id=item.client_id,
            durable=item.durable,
            filter=str(item.filter),
            queue=cursor.queue.name if cursor else item.filter.queue,
            event=item.filter.event,
            cursor=settled_to,
            lag=committed - settled_to,
            lag_exact=(item.filter.everything and item.end_told is None) or committed == settled_to,
            in_flight=cursor.in_flight if cursor else 0,
            connected=item.subscriber is not None,
            last_ack=item.last_ack_ms,
            last_seen=self._state.now_ms if item.subscriber else item.last_seen_ms,
            expires_after_ms=item.expires_after_ms,
            paused=self._paused(item, cursor),
            retrying=len(cursor.parked) - _following(cursor) if cursor else 0,
            dead=len(item.dead),
            ack_timeout_ms=item.ack_timeout_ms,
            in_flight_max=item.in_flight_max,
            attempts_max=item.attempts_max,
            backoff_min_ms=item.backoff_min_ms,
            backoff_max_ms=item.backoff_max_ms,
            shared=item.shared,
            single_active=item.single_active,
            subscribers=[_subscriber(each, cursor) for each in islice(item.attached(), limits.LISTING_NAMES_MAX)],
            skipped=cursor.skipped if cursor else 0,
            headers=list(item.filter.headers),
            cut=cursor.cut if cursor else 0,
            replays_to=None if item.end_told is None or cursor is None else cursor.end,
        )

    def _paused(self, item: Subscription, cursor: Cursor | None) -> str:
        if item.paused:
            return "somebody paused the subscription: resume it"
        if cursor is None:
            return ""
        if cursor.queue.paused:
            return f"somebody paused queue {cursor.queue.shown_as!r}: resume it"
        if cursor.parked and len(item.dead) >= limits.DEAD_LETTERS_MAX:
            return f"{limits.DEAD_LETTERS_MAX} dead letters: no message is given up before some are redriven or deleted"
        subscriber = item.subscriber
        if subscriber is None or cursor not in subscriber.behind:
            return ""
        if not any(each.session.send_buffer_full is False for each in item.attached()):
            return "slow subscriber: its send buffer is full"
        for each in item.attached():
            if each.pace and not each.credit:
                return f"it replays {each.pace.rate:g} messages a second"
        if all(each.credit == 0 for each in item.attached()):
            return "nobody asks for messages at this moment: its clients pull"
        if not subscriber.has_room():
            return "the window is full: waiting for acks"
        if len(cursor.parked) >= limits.PARKED_MAX:
            if _following(cursor):
                return f"{limits.PARKED_MAX} messages wait for a retry, or for others of their keys; see which fail"
            return f"{limits.PARKED_MAX} messages wait for a retry; see why they fail"
        if len(cursor.unsettled) >= limits.HOLES_MAX:
            return f"{limits.HOLES_MAX} ranges are unsettled: waiting for the oldest acks"
        return ""


def _who(session: Session) -> dict[str, object]:
    return {"client_id": session.client_id, "address": session.address, "protocol": session.protocol}


def _what(subscription: Subscription) -> dict[str, object]:
    return {
        "subscription": subscription.name,
        "queue": subscription.filter.queue,
        "event": subscription.filter.event,
        "headers": [str(wanted) for wanted in subscription.filter.headers],
        "durable": subscription.durable,
    }


def _subscriber(subscriber: Subscriber, cursor: Cursor | None) -> SubscriberInfo:
    return SubscriberInfo(
        client_id=subscriber.session.client_id,
        address=subscriber.session.address,
        in_flight=subscriber.in_flight_of(cursor) if cursor else 0,
    )


def _following(cursor: Cursor) -> int:
    return cursor.keys.waiting if cursor.keys else 0


def _first(names: Iterable[str]) -> list[str]:
    return nsmallest(limits.LISTING_NAMES_MAX, names)


def _page(entries: list[tuple[str, Callable[[], I]]], after: str) -> tuple[list[I], str]:
    rest = [entry for entry in entries if entry[0] > after]
    page = nsmallest(limits.LISTING_PAGE_COUNT, rest, key=itemgetter(0))
    made: list[I] = []
    size_bytes = 0
    for key, make in page:
        entry = make()
        made.append(entry)
        size_bytes += _size_bytes(entry)
        if size_bytes >= limits.LISTING_PAGE_BYTES:
            return made, key if len(made) < len(rest) else ""
    return made, page[-1][0] if len(rest) > len(page) else ""


def _size_bytes(entry: object) -> int:
    # Only these have lists, which can be long; what is left of an envelope is room enough for all the others.
    if isinstance(entry, SubscriptionInfo):
        subscribers = sum(len((each.client_id or "").encode()) + len(each.address) + 48 for each in entry.subscribers)
        return subscribers + (3 * len(entry.filter.encode()) if entry.headers else 0)
    if not isinstance(entry, ClientInfo):
        return 0
    return sum(len(name.encode()) + 3 for name in [*entry.queues, *entry.subscriptions])
