"""Filters: patterns that select queues and events, and what is wanted of headers.

A pattern is tokens separated by dots. `*` stands for one token, a last `#` for any number of tokens, none
included. System queues, whose names begin with `$`, are matched by their literal name alone.

Headers are looked at last, and only those of messages that have some: of a queue and event that nobody filters by
headers, and of messages without, no header is ever decoded here.
"""

from collections.abc import Sequence
from functools import lru_cache

from tidings import limits
from tidings.batch import Batch
from tidings.errors import InvalidFilter, InvalidName
from tidings.model import PRESENCE_QUEUE, Flags, HeaderFilter, check_name

EVERYTHING = "#"


class Filter:
    """A queue pattern, an event pattern, and what is wanted of headers, all of it.

    Raises:
        InvalidFilter: a pattern or what is wanted of a header is malformed; the text says what is allowed.
    """

    __slots__ = ("all_events", "event", "everything", "headers", "literal", "queue")

    def __init__(self, queue: str, event: str, headers: Sequence[HeaderFilter] = ()) -> None:
        _check_pattern(queue, "queue")
        _check_pattern(event, "event")
        if queue.startswith("$") and queue != PRESENCE_QUEUE:
            raise InvalidFilter(f"there is no system queue {queue!r}; there is {PRESENCE_QUEUE!r}")
        self.queue = queue
        self.event = event
        self.literal = "*" not in queue and "#" not in queue
        """Whether the queue pattern is one queue's name."""
        self.all_events = event == EVERYTHING
        self.headers = _canonical(headers)
        self.everything = self.all_events and not headers
        """Whether all messages of its queues are selected."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def __str__(self) -> str:
        return f"{self.address}{''.join(map(str, self.headers))}"

    def _parts(self) -> tuple[str, str, tuple[HeaderFilter, ...]]:
        return self.queue, self.event, self.headers

    @property
    def address(self) -> str:
        """What it says of names."""
        return f"{self.queue}/{self.event}"

    @property
    def names_one_event(self) -> bool:
        """Whether messages of one event only are selected."""
        return "*" not in self.event and "#" not in self.event

    def wants_queue(self, name: str) -> bool:
        """Whether messages of this queue are selected, as far as the queue goes."""
        if self.literal:
            return name == self.queue
        return not name.startswith("$") and _matches(self.queue, name)

    def wants_event(self, event: str) -> bool:
        """Whether messages of this event are selected, as far as the event goes."""
        return self.all_events or _matches(self.event, event)

    def wants_headers(self, headers: dict[str, str]) -> bool:
        """Whether a message with these headers is selected, as far as they go."""
        return all(wanted.wants(headers) for wanted in self.headers)

    def wants_any(self, batch: Batch) -> bool:
        """Whether a batch holds a message that is selected."""
        needed = Flags.HEADERS if self.headers else 0
        named = any(
            run.event is not None and run.flags & needed == needed and self.wants_event(run.event) for run in batch.runs
        )
        return named and (not self.headers or self.select(batch) is not None)

    def select(self, batch: Batch) -> Batch | None:
        """Returns a batch with what is not selected cut out; itself if all is selected, None if nothing is."""
        selected = batch if self.all_events else batch.select(self.wants_event)
        if selected is None or not self.headers:
            return selected
        places = selected.with_headers(self.wants_headers)
        if places == [(0, batch.count - 1)]:
            return selected
        return selected.keep(places) if places else None


def _canonical(headers: Sequence[HeaderFilter]) -> tuple[HeaderFilter, ...]:
    """Returns what is wanted of headers in the one order and spelling that says it."""
    size_bytes = 0
    found: dict[str, HeaderFilter] = {}
    for wanted in headers:
        if wanted.name in found:
            raise InvalidFilter(f"header {wanted.name!r} is named twice; name it once, with all that its value may be")
        if not wanted.name or not (wanted.values or wanted.prefixes):
            raise InvalidFilter(
                f"header filter {wanted.name!r} wants nothing; give a name, and values or prefixes: the prefix ''"
                " is for a header that is there, whatever its value"
            )
        texts = [wanted.name, *wanted.values, *wanted.prefixes]
        try:
            size_bytes += sum(len(text.encode()) for text in texts)
        except UnicodeEncodeError:
            raise InvalidFilter(f"what is wanted of header {wanted.name!r} is not valid UTF-8") from None
        prefixes = ("",) if "" in wanted.prefixes else tuple(sorted(set(wanted.prefixes)))
        values = [value for value in sorted(set(wanted.values)) if not value.startswith(prefixes)]
        found[wanted.name] = HeaderFilter(wanted.name, tuple(values), prefixes)
    if len(found) > limits.HEADERS_MAX:
        raise InvalidFilter(
            f"{len(found)} headers are filtered by; a message has at most {limits.HEADERS_MAX}, name no more"
        )
    if size_bytes > limits.HEADERS_SIZE_BYTES_MAX:
        raise InvalidFilter(
            f"what is wanted of headers takes {size_bytes} bytes, the limit is {limits.HEADERS_SIZE_BYTES_MAX} bytes;"
            " write common beginnings as prefixes"
        )
    return tuple(found[name] for name in sorted(found))


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
