"""The verbs that look at the server and tidy it up: listings, settings, deleting, copies."""

from os import PathLike, fspath
from typing import Any, Literal

from tidings import calls, limits
from tidings.client.options import Seconds, Start, amount, duration, milliseconds, policy, start_of, within
from tidings.client.requests import Requests
from tidings.errors import InvalidOption
from tidings.model import ClientInfo, MovedInfo, QueueInfo, SubscriptionInfo


class Administration(Requests):
    """The administrative verbs of a client."""

    async def clients(self, *, timeout: float | None = 30.0) -> list[ClientInfo]:
        """Returns all clients that are connected, and the known ones that are away."""
        return await self._list("clients", ClientInfo, timeout)

    async def queues(self, *, timeout: float | None = 30.0) -> list[QueueInfo]:
        """Returns all queues."""
        return await self._list("queues", QueueInfo, timeout)

    async def subscriptions(self, *, timeout: float | None = 30.0) -> list[SubscriptionInfo]:
        """Returns all subscriptions, each once for every queue it follows."""
        return await self._list("subscriptions", SubscriptionInfo, timeout)

    async def delete_queue(self, name: str, *, timeout: float | None = 30.0) -> None:
        """Deletes a queue and all its messages; durable on return.

        Raises:
            NotFound: there is none.
            SystemQueue: it is the server's own.
            TimedOut: the time limit passed; it may be deleted.
        """
        await self._ask(lambda waiter: self._session.delete("queue", name, waiter), timeout, f"deleting {name!r}")

    async def delete_subscription(self, name: str, *, timeout: float | None = 30.0) -> None:
        """Deletes a subscription, its cursor and what waits for it; durable on return.

        Args:
            name: its name, or a client id that has only one.
            timeout: time limit in seconds.

        Raises:
            NotFound: there is none.
            SubscriptionInUse: it has a subscriber; stop that first.
            TimedOut: the time limit passed; it may be deleted.
        """
        await self._ask(
            lambda waiter: self._session.delete("subscription", name, waiter), timeout, f"deleting {name!r}"
        )

    async def backup(self, path: str | PathLike[str], *, timeout: float | None = None) -> None:
        """Writes a consistent copy of the store to a new file on the server's machine.

        Raises:
            InvalidOption: the file exists, cannot be written, or the store cannot be copied.
            ConnectionLost: the connection ended before the answer; the file may have been written.
        """
        if not isinstance(path, str | PathLike):
            raise InvalidOption(f"path={path!r}: write a str or a Path, of the server's machine")
        file = fspath(path)
        await self._ask(lambda waiter: self._session.backup(file, waiter), timeout, f"the backup to {file!r}")

    async def configure_subscription(
        self,
        name: str,
        *,
        in_flight_max: int | None = None,
        ack_timeout: Seconds | None = None,
        attempts_max: int | None = None,
        backoff_min: Seconds | None = None,
        backoff_max: Seconds | None = None,
        expires_after: Seconds | None = None,
        single_active: bool | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        """Changes the settings of a subscription, connected or away; durable on return. None leaves one as it is.

        They hold from now on. A connected subscriber hears of them when it attaches the next time: until then it
        extends its handlers' time by the ack timeout from before.

        Args:
            name: its name, or a client id that has only one.
            in_flight_max: as for `subscribe`.
            ack_timeout: as for `subscribe`.
            attempts_max: as for `subscribe`.
            backoff_min: as for `subscribe`; given alone it moves a `backoff_max` that is less.
            backoff_max: as for `subscribe`; given alone it moves a `backoff_min` that is more.
            expires_after: as for `subscribe`; 0 removes it.
            single_active: as for `subscribe`; for a shared one.
            timeout: time limit in seconds.

        Raises:
            NotFound: there is none.
            InvalidOption: a setting is out of its range.
            TimedOut: the time limit passed; it may be changed.
        """
        settings: dict[str, Any] = policy(
            ack_timeout=ack_timeout, attempts_max=attempts_max, backoff_min=backoff_min, backoff_max=backoff_max
        )
        if in_flight_max is not None:
            settings["in_flight_max"] = within(in_flight_max, limits.IN_FLIGHT_MAX, "in_flight_max")
        if expires_after is not None:
            settings["expires_after_ms"] = milliseconds(expires_after, "expires_after") or None
        if single_active is not None:
            settings["single_active"] = single_active
        await self._call(calls.ConfigureSubscription(name=name, **settings), timeout)

    async def configure_queue(
        self,
        name: str,
        *,
        history_age: Seconds | None = None,
        history_bytes: float | None = None,
        history_messages: float | None = None,
        ttl: Seconds | None = None,
        waiting_messages: float | None = None,
        waiting_bytes: float | None = None,
        waiting_age: Seconds | None = None,
        when_full: Literal["refuse-new", "drop-oldest"] | None = None,
        publish_rate: float | None = None,
        publish_rate_bytes: float | None = None,
        in_flight_max: float | None = None,
        subscriptions_max: float | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        """Changes the settings of a queue, which exists from then on; durable on return. None leaves one as it is.

        They hold for what is in the queue as well as for what comes. `math.inf` is no limit.

        Args:
            name: its name.
            history_age: seconds or timedelta that messages stay which every durable subscription has settled; 24 h by
                default, 0 keeps none.
            history_bytes: bytes of them that stay at most; 256 MiB by default.
            history_messages: how many of them stay at most; no limit by default.
            ttl: seconds or timedelta after which a message is not delivered any more, from 1 ms to ten years; no limit
                by default. Where a message has a ttl of its own, the shorter one counts.
            waiting_messages: how many may wait for a durable subscription, neither settled nor in flight, from 1; no
                limit by default. With a filter all count that come after the oldest of them.
            waiting_bytes: how many bytes of messages may wait for one; no limit by default.
            waiting_age: seconds or timedelta that a message may wait for one since it was stored, from 1 ms; no limit
                by default.
            when_full: what is done when so much waits: "refuse-new" (the default) raises QueueFull for what is
                published, "drop-oldest" cuts the oldest of it, which the subscription is told as a gap.
            publish_rate: messages a second that are taken, on average; no limit by default.
            publish_rate_bytes: bytes a second that are taken, on average; no limit by default.
            in_flight_max: how many of its messages may be in flight, to all its subscriptions together; the others
                wait. No limit by default.
            subscriptions_max: how many subscriptions may read it; no limit by default.
            timeout: time limit in seconds.

        Raises:
            InvalidName: the name breaks the rules for names.
            InvalidOption: a setting is out of its range.
            SystemQueue: it is the server's own.
            TimedOut: the time limit passed; it may be changed.
        """
        settings: dict[str, Any] = {
            "history_age_ms": duration(history_age, "history_age"),
            "history_bytes": amount(history_bytes, "history_bytes"),
            "history_messages": amount(history_messages, "history_messages"),
            "ttl_ms": duration(ttl, "ttl"),
            "waiting_messages": amount(waiting_messages, "waiting_messages"),
            "waiting_bytes": amount(waiting_bytes, "waiting_bytes"),
            "waiting_age_ms": duration(waiting_age, "waiting_age"),
            "publish_rate": amount(publish_rate, "publish_rate"),
            "publish_rate_bytes": amount(publish_rate_bytes, "publish_rate_bytes"),
            "in_flight_max": amount(in_flight_max, "in_flight_max"),
            "subscriptions_max": amount(subscriptions_max, "subscriptions_max"),
        }
        if when_full is not None:
            if when_full not in ("refuse-new", "drop-oldest"):
                raise InvalidOption(f"when_full is {when_full!r}; it can be 'refuse-new' or 'drop-oldest'")
            settings["when_full"] = when_full
        await self._call(calls.ConfigureQueue(name=name, **settings), timeout)

    async def configure_client(
        self,
        client_id: str,
        *,
        publish_rate: float | None = None,
        publish_rate_bytes: float | None = None,
        in_flight_max: float | None = None,
        subscriptions_max: float | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        """Changes the quotas of a client, connected or not; durable on return. None leaves one as it is.

        They hold from now on. `math.inf` is no limit, which is the default of all.

        Args:
            client_id: its client id, also if it was never here.
            publish_rate: messages a second that it may publish, on average.
            publish_rate_bytes: bytes a second that it may publish, on average.
            in_flight_max: most messages in flight to all its subscriptions together.
            subscriptions_max: how many subscriptions it may have.
            timeout: time limit in seconds.

        Raises:
            InvalidName: it can be no client id.
            InvalidOption: a quota is out of its range.
            TimedOut: the time limit passed; it may be changed.
        """
        quotas: dict[str, Any] = {
            "publish_rate": amount(publish_rate, "publish_rate"),
            "publish_rate_bytes": amount(publish_rate_bytes, "publish_rate_bytes"),
            "in_flight_max": amount(in_flight_max, "in_flight_max"),
            "subscriptions_max": amount(subscriptions_max, "subscriptions_max"),
        }
        await self._call(calls.ConfigureClient(client_id=client_id, **quotas), timeout)

    async def pause(
        self, subscription: str | None = None, *, queue: str | None = None, timeout: float | None = 30.0
    ) -> None:
        """Lets a subscription get nothing new, or a queue deliver nothing new, until `resume`; durable on return.

        Nothing is lost: a paused queue takes messages, a paused subscription keeps its place and what it has in
        flight, whose acks, nacks and ack timeouts count as ever.

        Args:
            subscription: its name, or a client id that has only one.
            queue: instead, the name of a queue; all its subscriptions wait.
            timeout: time limit in seconds.

        Raises:
            InvalidOption: both were named, or none.
            NotFound: there is none.
            SystemQueue: the queue is the server's own.
            TimedOut: the time limit passed; it may be paused.
        """
        await self._call(calls.Pause(subscription=subscription, queue=queue), timeout)

    async def resume(
        self, subscription: str | None = None, *, queue: str | None = None, timeout: float | None = 30.0
    ) -> None:
        """Lets a subscription or a queue that was paused go on where it stopped; durable on return.

        Arguments and errors as for `pause`.
        """
        await self._call(calls.Pause(subscription=subscription, queue=queue, paused=False), timeout)

    async def seek(
        self, subscription: str, *, to: Start, queue: str | None = None, timeout: float | None = 30.0
    ) -> list[MovedInfo]:
        """Moves a subscription, whether or not somebody is attached; durable on return.

        What it gets next is what comes from there on, in order, as if for the first time: forward past what it does
        not need, or back to get again what the queue still holds. What was in flight or waited for a retry counts no
        more, and late acks of it are refused with DeliveryTakenAway. Dead letters stay.

        Args:
            subscription: its name, or a client id that has only one.
            to: "earliest", "latest", the sequence that it is to get next, or a datetime with time zone.
            queue: in which of its queues; None is all of them.
            timeout: time limit in seconds.

        Returns:
            For each queue where the cursor was and is, and how many messages were skipped. Those are counted in
            `SubscriptionInfo.skipped`, and are no gap. What a move back cannot bring again is one.

        Raises:
            NotFound: there is no such subscription, or it does not read the queue.
            InvalidOption: the sequence is not in the queue, or it is not said in which queue it is.
            StoreUnavailable, TimedOut: it may be moved.
        """
        word, value = start_of(to, "to")
        call = calls.Seek(subscription=subscription, to=word, value=value, queue=queue)
        moved: list[MovedInfo] = await self._call(call, timeout)
        return moved
