"""One subscription as its client sees it, pure: what arrived, what was handed over, which acks are on their way.

An epoch is here what the server calls so: another one once somebody moved the subscription, see `model.Reading`.

What arrived but was not handed over when the connection ends is forgotten: the server sends it again, to a durable
subscription from its cursor, to an ephemeral one from what it is told was received. So nothing is handed over
twice but what was handed over and not acked.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from tidings import limits
from tidings.batch import Batch
from tidings.client.deliveries import Delivery, ReadyRun
from tidings.client.waiters import Waiter, answer
from tidings.errors import ProtocolViolation, TidingsError
from tidings.model import HeaderFilter, Reading, epoch_of
from tidings.ranges import Ranges
from tidings.wire import Ack, Deliver, Extend, Gap, Nack, Part, Resume, Subscribe, Subscribed


class State(Enum):
    """Where a subscription stands.

    WAITING --Subscribe sent--> ATTACHING --Subscribed--> ATTACHED; all of these --connection lost--> WAITING,
    and --closed or refused--> CLOSED.
    """

    WAITING = "waiting"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    CLOSED = "closed"


class Options(NamedTuple):
    """What a subscription asks for, as `wire.Subscribe` says it."""

    queue: str
    event: str
    name: str | None = None
    start: str = "latest"
    start_value: int = 0
    in_flight_max: int = 0
    concurrency: int = 1
    ack_timeout_ms: int = 0
    expires_after_ms: int | None = None
    attempts_max: int = 0
    backoff_min_ms: int = 0
    backoff_max_ms: int = 0
    shared: bool = False
    single_active: bool | None = None
    headers: tuple[HeaderFilter, ...] = ()
    end: str = ""
    end_value: int = 0
    rate: float = 0.0


class Subscriber:
    """The state behind one open subscription.

    Args:
        handle: its number on every connection of this client.
        options: what it asks for.
        wake: called when it has acks to send.
    """

    def __init__(self, handle: int, options: Options, wake: Callable[["Subscriber"], None]) -> None:
        self.handle = handle
        self.options = options
        self.state = State.WAITING
        self.error: TidingsError | None = None
        """Why it is closed, if it was not closed by the application."""
        self.name = options.name or ""
        self.durable = False
        self.created = False
        self.attachment = 0
        """How often it was attached."""
        self.ack_timeout_ms = options.ack_timeout_ms or limits.ACK_TIMEOUT_MS
        self.attempts_max = options.attempts_max
        """After how many attempts a message is given up; 0 is not known."""
        self.is_over = False
        """Whether it was a replay, and all of it was settled."""
        self.gaps: list[Gap] = []
        self.gaps_seen = 0
        self.ready: deque[ReadyRun] = deque()
        """The runs of the part that is being handed over one by one."""
        self._wake = wake
        self._arrived: deque[Delivery] = deque()
        self._waiters: deque[Waiter[None]] = deque()
        self._received: dict[int, int] = {}
        self._taken = (0, 0)
        self._ready_from = (0, 0)
        self._acked: dict[int, Ranges] = {}
        self._handed: dict[int, Ranges] = {}
        self._end: int | None = None  # of a replay, once it is known
        self._begins: dict[int, int] = {}  # up to where it begins with the last message of each event
        self._readings: dict[int, Reading] = {}  # by epoch, where the subscription was moved
        # Acks of this turn: the range that grows, and those finished before it.
        self._ack_epoch = 0
        self._ack_first = 0
        self._ack_next = 0
        self._ack_ranges: list[tuple[int, int, int]] = []
        self._returns: list[Nack | Extend] = []

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self.state is State.CLOSED

    @property
    def has_acks(self) -> bool:
        """Whether there are acks to send, or what goes with them."""
        return self._ack_next > 0 or bool(self._returns)

    @property
    def fate(self) -> str:
        """What becomes of messages that were handed over and not settled when the connection, or all of it, ends."""
        return "delivered again" if self.durable else "not delivered again, since the subscription is not durable"

    def comes_again(self, attachment: int) -> bool:
        """Whether what was delivered over an attachment is delivered again if it fails now."""
        return self.durable or (self.state is State.ATTACHED and attachment == self.attachment)

    # --- What arrives ---

    def deliver(self, frame: Deliver, body: bytes) -> None:
        """Takes a delivery.

        Raises:
            ProtocolViolation: the parts do not describe the body.
        """
        sizes = [sum([run.size for run in part.runs]) for part in frame.parts]
        if sum(sizes) != len(body):
            raise ProtocolViolation(f"a delivery describes {sum(sizes)} bytes, its body has {len(body)} bytes")
        attempts = dict(frame.attempts)
        queue, epoch, redelivered = frame.queue, frame.epoch, frame.redelivered
        if self._readings.get(epoch_of(epoch), epoch_of(epoch)) != epoch:
            self._moved(epoch)
        place = frame.redriven, self.attachment
        if epoch not in self._received and frame.parts:
            self._stand(epoch, frame.parts[0].first_sequence - 1)
        if len(sizes) == 1:
            self._arrived.append(Delivery(queue, epoch, frame.parts[0], body, redelivered, attempts, *place))
        else:
            view = memoryview(body)
            offset = 0
            for part, size in zip(frame.parts, sizes, strict=True):
                piece = view[offset : offset + size]
                self._arrived.append(Delivery(queue, epoch, part, piece, redelivered, attempts, *place))
                offset += size
        self._call_waiters()

    def _moved(self, reading: Reading) -> None:
        """Forgets what came of a queue before somebody moved the subscription there: its acks count no more."""
        epoch = epoch_of(reading)
        self._readings[epoch] = reading
        if len(self._readings) > limits.RESUME_QUEUES_MAX:
            del self._readings[next(iter(self._readings))]
        self._arrived = deque(delivery for delivery in self._arrived if epoch_of(delivery.epoch) != epoch)
        if epoch_of(self._ready_from[0]) == epoch:
            self._forget_ready()
        for kept in (self._received, self._acked, self._handed, self._begins):
            for former in [each for each in kept if epoch_of(each) == epoch]:
                kept.pop(former)

    def gap(self, frame: Gap) -> None:
        """Takes note of what will not come; the latest are remembered.

        The server tells a durable subscription again and again until it is acked.
        """
        if self.durable:
            self.ack(frame.epoch, frame.first_sequence, frame.last_sequence)
        if self.durable and frame in self.gaps:
            return
        self.gaps.append(frame)
        self.gaps_seen += 1
        if len(self.gaps) > limits.GAPS_MAX:
            del self.gaps[0]

    def ended(self) -> None:
        """Takes note that a replay is at its end."""
        self.is_over = True
        self._call_waiters()

    def take(self) -> Delivery | None:
        """Returns the next part and counts it as handed over; None if there is none now."""
        delivery = self._next_unacked()
        if delivery is None:
            return None
        epoch = delivery.epoch
        before = self._received.get(epoch, 0)
        self._taken = epoch, before
        self._stand(epoch, max(before, delivery.last_sequence))
        handed = self._handed.get(epoch)
        if handed is None:
            handed = self._handed[epoch] = Ranges()
            if len(self._handed) > limits.RESUME_QUEUES_MAX:
                del self._handed[next(iter(self._handed))]
        for first, last in delivery.ranges():
            handed.add(first, last)
        if len(handed) > 2 * limits.HOLES_MAX:
            # More than a server lets be unsettled: the oldest are settled, or will be delivered again.
            self._handed[epoch] = Ranges(list(handed)[-limits.HOLES_MAX :])
        return delivery

    def handed_up_to(self, epoch: int, sequence: int) -> list[tuple[int, int, int]]:
        """Returns as (epoch, first, last) what was handed over up to a sequence, and not given back or asked for here.

        Exactly that: what waits for a retry meanwhile, or waits here to be handed over, is not among it.
        """
        self._forget_unhanded()
        handed = self._handed.get(epoch, Ranges())
        ranges = handed.within(1, sequence)
        handed.remove(1, sequence)
        ready = self._handed.get(self._ready_from[0], Ranges())
        for run in self.ready:
            if run.remaining:
                ready.add(run.next_sequence, run.end)
        return [(epoch, first, last) for first, last in ranges]

    def _forget_unhanded(self) -> None:
        """Takes back that the rest of the part which is being handed over one by one was handed over."""
        handed = self._handed.get(self._ready_from[0])
        for run in self.ready:
            if handed and run.remaining:
                handed.remove(run.next_sequence, run.end)

    def hand_over(self, runs: list[ReadyRun]) -> None:
        """Makes ready the messages of the part that was taken last, to be handed over one by one."""
        self._ready_from = self._taken
        self.ready.extend(runs)

    def wait(self, waiter: Waiter[None]) -> None:
        """Answers the waiter as soon as there is something to take, or never will be."""
        self._waiters.append(waiter)
        if self._arrived or self.closed or self.is_over:
            self._call_waiters()

    def forget_waiter(self, waiter: Waiter[None]) -> None:
        """Takes note that a waiter gave up."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    # --- Acks ---

    def ack(self, epoch: int, first: int, last: int) -> bool:
        """Marks a range as settled, to be sent with the next flush; returns False if it is too late for that."""
        if first == self._ack_next and epoch == self._ack_epoch:
            self._ack_next = last + 1
            return True
        if self.state is State.CLOSED:
            return False
        if self._ack_next:
            self._ack_ranges.append((self._ack_epoch, self._ack_first, self._ack_next - 1))
        else:
            self._wake(self)
        self._ack_epoch, self._ack_first, self._ack_next = epoch, first, last + 1
        return True

    def give_back(self, frame: Nack | Extend, attachment: int) -> bool:
        """Says with the next flush that a message failed, or takes longer; returns False if it is too late for that.

        A nack of what came over an earlier connection is not sent: the server took that back when it was lost, and
        it is another delivery of the message that would fail. If it is not durable there is none: it is too late, too.
        """
        if self.state is State.CLOSED:
            return False
        if isinstance(frame, Nack) and not self.comes_again(attachment) and not self.was_acked(frame):
            return False
        if self.is_held(frame, attachment):
            if isinstance(frame, Nack):
                for epoch, first, last in frame.ranges:
                    self._handed.get(epoch, Ranges()).remove(first, last)
            self._wake(self)
            self._returns.append(frame)
        return True

    def is_held(self, frame: Nack | Extend, attachment: int) -> bool:
        """Whether the server believes that what a frame is about is being handled here, as far as is known."""
        return self.state is State.ATTACHED and (attachment == self.attachment or isinstance(frame, Extend))

    def frames_to_send(self) -> list[Ack | Nack | Extend]:
        """Returns what was said of messages since the last call: acks joined into ranges, then the rest.

        Of what was acked nothing else is told, whichever came first: an ack is final.
        """
        ranges = self._take_acks()
        step = limits.ACK_RANGES_MAX
        frames: list[Ack | Nack | Extend] = [
            Ack(self.handle, ranges[start : start + step]) for start in range(0, len(ranges), step)
        ]
        if self._returns:
            frames += [frame for frame in self._returns if not self.was_acked(frame)]
            self._returns = []
        return frames

    def was_acked(self, frame: Nack | Extend) -> bool:
        """Whether the message that a frame is about was acked before."""
        [(epoch, sequence, _)] = frame.ranges
        waiting = self._pending_acks()
        return sequence in self._acked.get(epoch, ()) or any(
            each == epoch and first <= sequence <= last for each, first, last in waiting
        )

    def remember_acked(self, ranges: list[tuple[int, int, int]]) -> None:
        """Keeps ranges that are sent, since a lost connection may lose them."""
        for epoch, first, last in ranges:
            acked = self._acked.get(epoch)
            if acked is None:
                acked = self._acked[epoch] = Ranges()
                if len(self._acked) > limits.RESUME_QUEUES_MAX:
                    del self._acked[next(iter(self._acked))]
            acked.add(first, last)
            if len(acked) > 2 * limits.ACK_RANGES_MAX:
                # Those sent longest ago have reached the server: forgetting them costs a duplicate at worst.
                self._acked[epoch] = Ranges(list(acked)[-limits.ACK_RANGES_MAX :])

    # --- Connections come and go ---

    def subscribe_frame(self, request: int) -> Subscribe:
        """Returns the frame that attaches it, or attaches it again where it stands."""
        options = self.options
        self.state = State.ATTACHING
        name = self.name if self.durable else options.name
        return Subscribe(
            request=request,
            handle=self.handle,
            queue=options.queue,
            event=options.event,
            name=name,
            start=options.start,
            start_value=options.start_value,
            in_flight_max=options.in_flight_max,
            concurrency=options.concurrency,
            ack_timeout_ms=options.ack_timeout_ms,
            expires_after_ms=options.expires_after_ms,
            resume=self._resume(),
            attempts_max=options.attempts_max,
            backoff_min_ms=options.backoff_min_ms,
            backoff_max_ms=options.backoff_max_ms,
            shared=options.shared,
            single_active=options.single_active,
            headers=list(options.headers),
            end=options.end if self._end is None else "sequence",
            end_value=options.end_value if self._end is None else self._end,
            rate=options.rate,
        )

    def subscribed(self, frame: Subscribed) -> None:
        """Takes note that it is attached."""
        if not self.closed:
            if not self.attachment:
                self.created = frame.created
            self.attachment += 1
            self.state = State.ATTACHED
            self.ack_timeout_ms = frame.ack_timeout_ms or self.ack_timeout_ms
            self.attempts_max = frame.attempts_max or self.attempts_max
            self.name = frame.name
            self.durable = frame.durable
            if self._end is None:
                self._end = frame.end
            for epoch, sequence in frame.places:
                if self.options.start == "last":
                    sequence = 0 if self._begins.setdefault(epoch, sequence) else sequence
                self._received.setdefault(epoch, sequence)

    def connection_lost(self) -> None:
        """Forgets what was not handed over: the server sends it again."""
        following = next((run.next_sequence for run in self.ready if run.remaining), None)
        if following is not None:
            epoch, before = self._ready_from
            self._stand(epoch, max(before, following - 1))
        self._forget_unhanded()
        self._forget_ready()
        self._arrived.clear()
        self._returns.clear()
        if not self.closed:
            self.state = State.WAITING

    def close(self, error: TidingsError | None = None) -> None:
        """Ends it; whoever waits for messages is told."""
        if self.closed:
            return
        self.state = State.CLOSED
        self.error = error
        self._forget_ready()
        self._arrived.clear()
        self._ack_ranges = []
        self._ack_next = 0
        self._returns.clear()
        self._call_waiters()

    # --- Helpers ---

    def _next_unacked(self) -> Delivery | None:
        """Returns what arrived next, without what was acked while it came again: that ack settles it, too."""
        while self._arrived:
            delivery = self._arrived.popleft()
            if not delivery.redelivered:
                return delivery
            first, part = delivery.part.first_sequence, delivery.part
            wanted = Ranges(delivery.ranges())
            again: list[tuple[int, int]] = []
            for low, high in self._acked.get(delivery.epoch, ()):
                again += wanted.within(low, high)
                wanted.remove(low, high)
            for epoch, low, high in self._pending_acks():
                if epoch == delivery.epoch:
                    wanted.remove(low, high)
            for low, high in again:
                # That ack may have been lost with a connection; saying it again does no harm.
                self.ack(delivery.epoch, low, high)
            batch = Batch(part.runs, bytes(delivery.body)).keep([(low - first, high - first) for low, high in wanted])
            if batch is not None:
                return delivery._replace(part=Part(first, part.time_ms, list(batch.runs)), body=batch.body)
        return None

    def _forget_ready(self) -> None:
        for run in self.ready:
            run.forget()
        self.ready.clear()

    def _stand(self, epoch: int, sequence: int) -> None:
        if epoch not in self._received and len(self._received) >= limits.RESUME_QUEUES_MAX:
            del self._received[next(iter(self._received))]
        self._received[epoch] = sequence

    def _resume(self) -> list[Resume]:
        self.remember_acked(self._pending_acks())
        # All ranges together must fit into one envelope, so the latest are taken, whatever their queue.
        room = limits.ACK_RANGES_MAX
        resume: list[Resume] = []
        for epoch in reversed({**self._acked, **self._received}):
            acked = list(self._acked[epoch])[-room:] if room and epoch in self._acked else []
            room -= len(acked)
            if acked or not self.durable:
                resume.append(Resume(epoch, self._received.get(epoch, 0), acked, self._begins.get(epoch, 0)))
        return resume[: limits.RESUME_QUEUES_MAX]

    def _pending_acks(self) -> list[tuple[int, int, int]]:
        if not self._ack_next:
            return []
        return [*self._ack_ranges, (self._ack_epoch, self._ack_first, self._ack_next - 1)]

    def _take_acks(self) -> list[tuple[int, int, int]]:
        ranges = self._pending_acks()
        self._ack_ranges = []
        self._ack_next = 0
        if len(ranges) > 1:
            by_epoch: dict[int, Ranges] = {}
            for epoch, first, last in ranges:
                by_epoch.setdefault(epoch, Ranges()).add(first, last)
            ranges = [(epoch, first, last) for epoch, joined in by_epoch.items() for first, last in joined]
        self.remember_acked(ranges)
        return ranges

    def _call_waiters(self) -> None:
        while self._waiters:
            answer(self._waiters.popleft(), None)
