"""Filters: patterns that select queues and events.

A pattern is tokens separated by dots. `*` stands for one token, a last `#` for any number of tokens, none
included. System queues, whose names begin with `$`, are matched by their literal name alone.
"""

from functools import lru_cache

from tidings.errors import InvalidFilter, InvalidName
from tidings.model import PRESENCE_QUEUE, check_name

EVERYTHING = "#"


class Filter:
    """A queue pattern and an event pattern.

    Raises:
        InvalidFilter: a pattern is malformed; the text says what is allowed.
    """

    __slots__ = ("all_events", "event", "literal", "queue")

    def __init__(self, queue: str, event: str) -> None:
        _check_pattern(queue, "queue")
        _check_pattern(event, "event")
        if queue.startswith("$") and queue != PRESENCE_QUEUE:
            raise InvalidFilter(f"there is no system queue {queue!r}; there is {PRESENCE_QUEUE!r}")
        self.queue = queue
        self.event = event
        self.literal = "*" not in queue and "#" not in queue
        """Whether the queue pattern is one queue's name."""
        self.all_events = event == EVERYTHING

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f"{self.queue}/{self.event}"

    def wants_queue(self, name: str) -> bool:
        """Whether messages of this queue are selected, as far as the queue goes."""
        if self.literal:
            return name == self.queue
        return not name.startswith("$") and _matches(self.queue, name)

    def wants_event(self, event: str) -> bool:
        """Whether messages of this event are selected, as far as the event goes."""
        return self.all_events or _matches(self.event, event)


def _check_pattern(pattern: str, what: str) -> None:
    tokens = pattern.split(".")
    literal = ".".join("x" if token == "*" or (token == "#" and index == len(tokens) - 1) else token
                       for index, token in enumerate(tokens))  # fmt: skip
    try:
        check_name(literal, what)
    except InvalidName as error:
        raise InvalidFilter(
            f"{what} pattern {pattern!r} is not valid ({error}); write names whose tokens may be '*',"
            " and '#' only as the last token"
        ) from None


@lru_cache(maxsize=65_536)
def _matches(pattern: str, name: str) -> bool:
    if pattern == EVERYTHING:
        return True
    wanted, tokens = pattern.split("."), name.split(".")
    if wanted[-1] == "#":
        wanted.pop()
        tokens = tokens[: len(wanted)] if len(tokens) >= len(wanted) else []
    return len(wanted) == len(tokens) and all(want in ("*", token) for want, token in zip(wanted, tokens, strict=True))
