"""The disk: what the files of a traced server hold, and what a power cut at this moment may leave of them.

After a power cut a file has all that its last completed fsync covered, and of what was written later nothing, all
or any part, in any order and torn; a name that was made or removed is certain once its directory was fsynced.
That is more than any one file system does to its files, and less than SQLite's documentation allows no disk to do.
"""

import random
import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

from tests.soak.trace import SYNCS, Begin, Call, End

WAYS = ("nothing", "everything", "whole writes", "pages of 4096 bytes", "sectors of 512 bytes")
_LAST_NUMBER = re.compile(r", (\d+)(?:\) +=.*)?$")
_SECTOR_BYTES = {"pages of 4096 bytes": 4096, "sectors of 512 bytes": 512}


class _Change(NamedTuple):
    """Bytes written at an offset, or, without bytes, the length that the file is cut or filled to."""

    call: int
    offset: int
    data: bytes | None


@dataclass
class _File:
    """A file: what an fsync has covered, and what was written since, in order."""

    synced: bytearray = field(default_factory=bytearray)
    changes: list[_Change] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)  # the calls among `changes` that have returned


class _UnderWay(NamedTuple):
    """A call that has not returned, and what it covers if it is an fsync: changes of a file, or of the names."""

    call: Call
    covered: list[_Change]
    renamings_count: int = 0


class Disk:
    """The files of one directory whose names begin with a stem, followed call by call."""

    def __init__(self, directory: str, stem: str, volatile: tuple[str, ...] = ("-shm", ".lock")) -> None:
        self._directory = directory
        self._stem = stem
        self._volatile = volatile  # rebuilt from nothing whenever the store is opened
        self._names: dict[str, _File] = {}
        self._synced_names: dict[str, _File] = {}
        self._renamings: list[tuple[str, _File | None]] = []  # names made (a file) or removed since
        self._under_way: dict[int, _UnderWay] = {}
        self._synced_since = bytearray()
        self.fsyncs_count = 0

    def follow(self, step: Begin | End) -> bool:
        """Takes note of the next step of a trace; returns whether it changed what a power cut may leave."""
        if isinstance(step, Begin):
            return self._begin(step)
        under_way = self._under_way.pop(step.number, None)
        return under_way is not None and self._end(step, under_way)

    def process_ended(self) -> None:
        """Takes note that no call is under way any more; what a killed one wrote is in the system's memory."""
        self._under_way = {}
        for file in self._names.values():
            file.ended = {change.call for change in file.changes}

    def take_synced(self) -> bytes:
        """Returns what became certain since this was asked last, in no order."""
        synced, self._synced_since = bytes(self._synced_since), bytearray()
        return synced

    def image(self, way: str, chance: random.Random) -> dict[str, bytes]:
        """Returns the files, by name, that a power cut now may leave."""
        names = dict(self._synced_names)
        # A directory's own changes happen one after the other: some of them, from the first on.
        kept = {"nothing": 0, "everything": len(self._renamings)}.get(way, chance.randint(0, len(self._renamings)))
        for name, file in self._renamings[:kept]:
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file
        return {name: _left_of(file, way, chance) for name, file in names.items()}

    def _begin(self, step: Begin) -> bool:
        call, number = step.call, step.number
        if call.name.startswith(("unlink", "openat", "rename")):
            if self._name(call.data.decode(errors="replace")):
                assert not call.name.startswith("rename"), f"the data file was renamed: {call}"
                self._under_way[number] = _UnderWay(call, [])
            return False
        if call.target == self._directory and call.name in SYNCS:
            self._under_way[number] = _UnderWay(call, [], len(self._renamings))
            return False
        name = self._name(call.target)
        if name is None or name not in self._names:
            return False
        file = self._names[name]
        if call.name in ("fsync", "fdatasync"):
            # It covers what had returned before it began.
            covered = [change for change in file.changes if change.call in file.ended]
            self._under_way[number] = _UnderWay(call, covered)
            return False
        assert call.name in ("pwrite64", "ftruncate"), f"a call that changes a file in a way unknown here: {call}"
        offset = int(_LAST_NUMBER.findall(call.arguments)[0])
        file.changes.append(_Change(number, offset, call.data if call.name == "pwrite64" else None))
        self._under_way[number] = _UnderWay(call, [])
        return True

    def _end(self, step: End, under_way: _UnderWay) -> bool:
        call = under_way.call
        if call.name in ("openat", "unlink", "unlinkat"):
            return step.result >= 0 and self._rename(call)
        if call.target == self._directory:
            if step.result == 0:
                self._sync_names(under_way.renamings_count)
            return True
        file = self._names.get(self._name(call.target) or "")
        if file is None:
            return False
        if call.name in SYNCS:
            if step.result == 0:
                self._sync(file, under_way.covered)
            return True
        assert step.result == (len(call.data) if call.name == "pwrite64" else 0), f"a write failed: {call} {step}"
        file.ended.add(step.number)
        return True

    def _sync(self, file: _File, covered: list[_Change]) -> None:
        self.fsyncs_count += 1
        for change in covered:
            _apply(file.synced, change)
            self._synced_since += change.data or b""
        gone = {change.call for change in covered}
        file.changes = [change for change in file.changes if change.call not in gone]
        file.ended -= gone

    def _sync_names(self, count: int) -> None:
        for name, file in self._renamings[:count]:
            if file is None:
                self._synced_names.pop(name, None)
            else:
                self._synced_names[name] = file
        del self._renamings[:count]

    def _rename(self, call: Call) -> bool:
        name = self._name(call.data.decode())
        assert name is not None
        if call.name == "openat":
            assert "O_TRUNC" not in call.arguments, f"the data file was opened and cut to nothing: {call}"
            if name in self._names or "O_CREAT" not in call.arguments:
                return False
            self._names[name] = _File()
            self._renamings.append((name, self._names[name]))
        else:
            del self._names[name]
            self._renamings.append((name, None))
        return True

    def _name(self, path: str) -> str | None:
        # The name of a file that is followed, None for any other.
        pure = PurePath(path)
        if str(pure.parent) != self._directory or not pure.name.startswith(self._stem):
            return None
        rest = pure.name.removeprefix(self._stem)
        return None if rest in self._volatile else pure.name


def _left_of(file: _File, way: str, chance: random.Random) -> bytes:
    content = bytearray(file.synced)
    if way == "nothing":
        return bytes(content)
    for change in file.changes:
        if way == "everything" or (way == "whole writes" and chance.random() < 0.5):
            _apply(content, change)
        elif way in _SECTOR_BYTES:
            for part in _parts(change, _SECTOR_BYTES[way]):
                if chance.random() < 0.5:
                    _apply(content, part)
    return bytes(content)


def _parts(change: _Change, sector_bytes: int) -> list[_Change]:
    # Cuts a write at the borders of the disk's sectors.
    if change.data is None:
        return [change]
    found = []
    start = change.offset
    end = start + len(change.data)
    while start < end:
        border = min(end, (start // sector_bytes + 1) * sector_bytes)
        found.append(_Change(change.call, start, change.data[start - change.offset : border - change.offset]))
        start = border
    return found


def _apply(content: bytearray, change: _Change) -> None:
    if change.data is None:
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.data)] = change.data
