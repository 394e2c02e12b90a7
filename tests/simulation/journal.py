"""The journal: what each transaction did to the records on the disk, as whoever starts after it would find them."""

from collections import defaultdict
from typing import NamedTuple

import msgspec

from tidings.batch import decode_items
from tidings.broker.records import (
    CursorRecord,
    DeadContentRecord,
    DeadLetterRecord,
    IdsRecord,
    QueueRecord,
    ScheduleRecord,
)
from tidings.model import Reading, epoch_of, moves_of, reading_of
from tidings.ranges import Ranges
from tidings.transaction import Commit


class Letter(NamedTuple):
    """A dead letter: of the subscription of a number, written by one transaction, removed by another."""

    subscription: int
    record: DeadLetterRecord
    payload: str
    written: int
    removed: int | None

    @property
    def reading(self) -> Reading:
        """In which reading of its queue it died."""
        return reading_of(self.record.epoch, self.record.moves)


class Due(NamedTuple):
    """A time at which a payload is to be published: written by one transaction, removed by another."""

    payload: str
    time_ms: int
    written: int
    removed: int | None


class Journal:
    """Reads the transactions of a disk; they are numbered from 0."""

    def __init__(self, commits: list[Commit]) -> None:
        self.letters: list[Letter] = []
        self.due: list[Due] = []
        self.ids: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        """(epoch, id) -> (when by the server's clock, sequence)."""
        self.ended: dict[int, int] = {}
        """Number of a subscription -> which transaction removed it."""
        self.deleted: dict[int, int] = {}
        """Epoch of a queue -> which transaction deleted it."""
        self.deleted_messages: dict[int, Ranges] = defaultdict(Ranges)
        """Epoch -> which of its messages were deleted by themselves."""
        self.purged_to: dict[int, int] = defaultdict(int)
        """Epoch -> up to which sequence it was purged."""
        self._cursors: dict[tuple[int, int], list[tuple[int, CursorRecord | None]]] = defaultdict(list)
        contents: dict[str, str] = {}
        letters: dict[str, Letter] = {}
        due: dict[str, Due] = {}
        for index, commit in enumerate(commits):
            for key, value in commit.puts:
                kind, _, rest = key.partition("/")
                if kind == "cursor":
                    number, epoch = map(int, rest.split("/"))
                    self._cursors[number, epoch].append((index, msgspec.msgpack.decode(value, type=CursorRecord)))
                elif kind == "queue":
                    queue = msgspec.msgpack.decode(value, type=QueueRecord)
                    self.purged_to[int(rest)] = max(self.purged_to[int(rest)], queue.purged_to)
                    for span in queue.deleted:
                        self.deleted_messages[int(rest)].add(*span)
                elif kind == "dead-content":
                    content = msgspec.msgpack.decode(value, type=DeadContentRecord)
                    contents[rest] = _payload(content.run.flags, content.body)
                elif kind == "dead" and rest not in letters:
                    letters[rest] = Letter(
                        int(rest.split("/")[0]),
                        msgspec.msgpack.decode(value, type=DeadLetterRecord),
                        "",
                        index,
                        None,
                    )
                elif kind == "schedule" and key not in due:
                    item = msgspec.msgpack.decode(value, type=ScheduleRecord)
                    due[key] = Due(_payload(item.run.flags, item.body), int(rest.split("/")[0]), index, None)
                elif kind == "ids":
                    page, epoch = msgspec.msgpack.decode(value, type=IdsRecord), int(rest.split("/")[0])
                    for id, sequence in page.ids.items():
                        self.ids[epoch, id].append((page.time_ms, sequence))
            for key in commit.deletes:
                kind, _, rest = key.partition("/")
                if kind == "cursor":
                    number, epoch = map(int, rest.split("/"))
                    self._cursors[number, epoch].append((index, None))
                elif kind == "dead" and rest in letters:
                    self.letters.append(letters.pop(rest)._replace(payload=contents.get(rest, ""), removed=index))
                elif kind == "schedule" and key in due:
                    self.due.append(due.pop(key)._replace(removed=index))
                elif kind == "subscription":
                    self.ended[int(rest)] = index
                elif kind == "queue":
                    self.deleted[int(rest)] = index
        self.letters += [letter._replace(payload=contents.get(rest, "")) for rest, letter in letters.items()]
        self.due += due.values()

    def cursor(self, subscription: int, epoch: int, commit: int) -> CursorRecord | None:
        """Returns the record of a cursor as it was after a transaction."""
        found = None
        for index, record in self._cursors[subscription, epoch]:
            if index > commit:
                break
            found = record
        return found

    def moves(self, subscription: int, epoch: int) -> int:
        """Returns how often a subscription was moved in a queue."""
        return max((record.moves for _, record in self._cursors[subscription, epoch] if record), default=0)

    def begins(self, subscription: int, reading: Reading) -> int:
        """Returns to where a subscription was moved, at the beginning of a reading."""
        for _, record in self._cursors[subscription, epoch_of(reading)]:
            if record is not None and record.moves == moves_of(reading):
                return settled_to(record)
        return 0

    def moved_to(self, subscription: int, epoch: int, commits: int) -> list[int]:
        """Returns all the places to which a subscription was moved by the first so many transactions."""
        found: dict[int, int] = {}
        for index, record in self._cursors[subscription, epoch]:
            if record is not None and record.moves and index < commits:
                found.setdefault(record.moves, settled_to(record))
        return list(found.values())


def settled_to(record: CursorRecord) -> int:
    """Returns up to which sequence all is settled."""
    return min([record.position, *(first - 1 for first, _ in record.unsettled)])


def is_settled(record: CursorRecord | None, sequence: int) -> bool:
    """Whether a message is settled by a cursor."""
    if record is None or sequence > record.position:
        return False
    return not any(first <= sequence <= last for first, last in record.unsettled)


def _payload(flags: int, body: bytes) -> str:
    return bytes(decode_items(1, flags, body)[0][0]).decode()
