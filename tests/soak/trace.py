"""The trace: the system calls of a process that ran under strace, in the order in which they began and ended.

strace stops a thread at the beginning and at the end of each call, so what a thread does after a call of another one
has returned to it stands after that call's end in the trace, too: a confirm that followed an fsync follows it here.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WRITES = ("write", "writev", "sendto", "sendmsg", "pwrite64", "pwritev", "pwritev2")
NAMES = ("rename", "renameat", "renameat2", "unlink", "unlinkat", "openat")
SIZES = ("ftruncate", "truncate", "fallocate")
SYNCS = ("fsync", "fdatasync", "sync_file_range", "syncfs", "sync")

_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)", re.DOTALL)
_RESULT = re.compile(r"= (-?\d+)(?:<.*>)?(?: E[A-Z]+ .*)?$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"(\d+)<([^>]*)>")
_UNFINISHED = " <unfinished ...>"


def command(trace: Path) -> list[str]:
    """Returns what runs a program under strace; its threads are followed, its forks too."""
    calls = ",".join((*WRITES, *NAMES, *SIZES, *SYNCS))
    return ["strace", "-D", "-f", "-y", "-xx", "-s", "16777216", "-e", f"trace={calls}", "-o", str(trace)]


def is_complete(trace: Path) -> bool:
    """Says whether the program has ended, and strace has written that down as its last line."""
    with trace.open("rb") as file:
        file.seek(max(0, trace.stat().st_size - 100))
        return b" +++ " in file.read()


class Call(NamedTuple):
    """A system call: its arguments as strace spells them, and what of them is needed decoded.

    `target` is the path of the first descriptor, or how strace names what is not a file; `data` all strings joined.
    """

    name: str
    arguments: str
    target: str
    data: bytes


class Begin(NamedTuple):
    """A call has begun; whatever it writes may be on its way."""

    number: int
    call: Call


class End(NamedTuple):
    """The call that began as `number` has returned; one that was under way at the process's end has none."""

    number: int
    result: int


def read(trace: Path) -> Iterator[Begin | End]:
    """Yields the beginnings and ends of all calls in a trace."""
    number = 0
    under_way: dict[str, int] = {}
    with trace.open() as lines:
        for line in lines:
            found = _LINE.match(line.rstrip("\n"))
            if not found:
                continue  # a thread's exit
            thread, resumed, name, rest = found.groups()
            if resumed:
                # strace prints what a call reads only at its end; what it writes stands at its beginning.
                yield from _end(under_way.pop(thread), rest)
                continue
            number += 1
            unfinished = rest.endswith(_UNFINISHED)
            yield Begin(number, _call(name, rest.removesuffix(_UNFINISHED)))
            if unfinished:
                under_way[thread] = number
            else:
                yield from _end(number, rest)


def _call(name: str, arguments: str) -> Call:
    strings = _STRING.findall(arguments)
    assert not any(cut for _, cut in strings), f"strace cut a string short: {name}"
    descriptor = _DESCRIPTOR.match(arguments)
    target = _decoded(descriptor[2]).decode() if descriptor else ""
    return Call(name, _STRING.sub('""', arguments), target, _decoded("".join(text for text, _ in strings)))


def _decoded(text: str) -> bytes:
    if not text.startswith("\\x"):
        return text.encode()
    return bytes.fromhex(text.replace("\\x", ""))


def _end(number: int, rest: str) -> Iterator[End]:
    found = _RESULT.search(rest)
    if found:  # otherwise it is "?": the process ended inside the call
        yield End(number, int(found[1]))
