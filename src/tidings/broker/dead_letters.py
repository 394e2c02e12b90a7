"""The dead letter: a message that a subscription gave up.

It has two records: a short one, which the broker keeps in its memory, and its content, which it does not.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b

from tidings import limits
from tidings.model import Failure, Reading, Run, reading_of


class DeadLetter:
    """What is remembered of a dead letter."""

    __slots__ = (
        "attempts",
        "died_ms",
        "epoch",
        "moves",
        "number",
        "place",
        "queue",
        "reason",
        "sequence",
        "subscription",
        "text",
        "type",
    )

    def __init__(
        self,
        subscription: int,
        number: int,
        *,
        queue: str,
        epoch: int,
        sequence: int,
        reason: str,
        attempts: int,
        died_ms: int,
        type: str,
        place: str,
        text: str = "",
        moves: int = 0,
    ) -> None:
        self.subscription = subscription
        self.number = number
        self.queue = queue
        self.epoch = epoch
        self.sequence = sequence
        self.reason = reason
        self.attempts = attempts
        self.died_ms = died_ms
        self.type = type
        self.place = place
        self.text = text
        """The beginning of the error's message; all of it is in the content."""
        self.moves = moves
        """How often its subscription had been moved in the queue when it died."""

    @property
    def reading(self) -> Reading:
        """In which reading of the queue it died: another one may deliver its message again."""
        return reading_of(self.epoch, self.moves)

    @property
    def how(self) -> str:
        """How it failed, in a line: "KeyError: 'vat' in bill() in orders.py", or "ack timeout"."""
        if not self.type:
            return self.reason
        error = f"{self.type}: {self.text}" if self.text else self.type
        return f"{error} in {self.place}" if self.place else error

    @property
    def key(self) -> str:
        """The key of its record."""
        return f"dead/{self.subscription}/{self.number}"

    @property
    def content_key(self) -> str:
        """The key of the record of its content."""
        return f"dead-content/{self.subscription}/{self.number}"

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that are the same for all that failed with the same error in the same place."""
        how = "\0".join((self.type, self.place)) if self.type else self.reason
        return blake2b(how.encode(), digest_size=4).hexdigest()


class DeadContent:
    """The message of a dead letter, until it is written: one run, its body, and what is told about its end."""

    def __init__(
        self, key: str, run: Run, body: bytes, published_ms: int, client_id: str | None, failure: Failure | None
    ) -> None:
        self.key = key
        self.run = run
        self.body = body
        self.published_ms = published_ms
        self.client_id = client_id
        self.failure = failure
        self.edited = False


class Redriving:
    """Dead letters on their way back to their subscription, at a rate."""

    def __init__(self, numbers: list[int], rate: float) -> None:
        self.numbers = deque(numbers)
        self.rate = rate
        self.next_ms = 0
        """When the next step may be taken."""
        self.moving = False
        """Whether a step is under way: what it moves is not durable yet."""


def headline(text: str) -> str:
    """Returns the first line of an error's message, within its bound."""
    return text.strip().partition("\n")[0][: limits.FAILURE_HEADLINE_LENGTH_MAX]


def trimmed(failure: Failure) -> Failure:
    """Returns a failure within its bounds: the beginning of its text, the end of its traceback."""
    return Failure(
        failure.type[: limits.NAME_SIZE_BYTES_MAX],
        failure.text[: limits.FAILURE_TEXT_LENGTH_MAX],
        failure.place[: limits.NAME_SIZE_BYTES_MAX],
        failure.traceback[-limits.FAILURE_TRACEBACK_LENGTH_MAX :],
    )
