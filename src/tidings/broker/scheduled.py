"""The scheduled message: what is to be published at a time, and its key, which sorts by that time."""

from __future__ import annotations

from typing import Final, NamedTuple

from tidings.errors import InvalidOption
from tidings.model import Run, ScheduledInfo

PREFIX: Final = "schedule/"


class Scheduled(NamedTuple):
    """A message that waits for its time."""

    key: str
    queue: str
    run: Run
    body: bytes
    every_ms: int | None

    def info(self) -> ScheduledInfo:
        """Returns what a client is told of it."""
        return ScheduledInfo(
            handle=handle_of(self.key, self.every_ms),
            queue=self.queue,
            event=self.run.event or "",
            at=time_of(self.key),
            every_ms=self.every_ms,
        )


def key_of(time_ms: int, number: int) -> str:
    """Returns the key of a scheduled message."""
    return f"{PREFIX}{time_ms:013}/{number:016}"


def key_before(key: str) -> str:
    """Returns what sorts right before a key, whether or not there is such a message."""
    begin, _, number = key.rpartition("/")
    return f"{begin}/{int(number) - 1:016}" if int(number) else f"{begin}/"


def time_of(key: str) -> int:
    """Returns when a message is to be published."""
    return int(key[len(PREFIX) :].partition("/")[0])


def handle_of(key: str, every_ms: int | None) -> str:
    """Returns what a client calls it. One that recurs may be called by any of its times."""
    time_ms, number = key[len(PREFIX) :].split("/")
    return f"{int(time_ms)}-{int(number)}" + (f"-{every_ms}" if every_ms else "")


def keys_of(handle: str, now_ms: int) -> list[str]:
    """Returns under which keys the message of a handle may be kept now.

    Raises:
        InvalidOption: no message was ever given this handle.
    """
    try:
        time_ms, number, *rest = map(int, handle.split("-"))
        every_ms = rest.pop() if rest else 0
        if rest or time_ms < 0 or number < 0 or every_ms < 0:
            raise ValueError
    except ValueError:
        raise InvalidOption(
            f"{handle!r} is no handle of a scheduled message; the confirm of the publish has it"
        ) from None
    if every_ms:
        time_ms += max(0, now_ms - time_ms) // every_ms * every_ms  # the last one up to now, and the one after it
    return [key_of(at_ms, number) for at_ms in dict.fromkeys((time_ms, time_ms + every_ms))]
