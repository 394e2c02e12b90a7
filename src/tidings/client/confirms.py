"""The confirms of one `publish_many`, gathered as they come."""

import asyncio
from typing import Final

from tidings.client.confirm import Confirm
from tidings.client.outgoing import Entry

_ENTRIES_TIDIED: Final = 1024


class Confirms:
    """The confirms of one `publish_many`: a waiter that takes several answers.

    Args:
        future: done once all confirms have come, or an error has.
    """

    def __init__(self, future: "asyncio.Future[None]") -> None:
        self.future = future
        self.entries: list[Entry] = []
        self.bytes_this_turn = 0
        self._confirms: list[Confirm] = []
        self._published = 0
        self._confirmed = 0
        self._complete = False

    def add(self, entry: Entry, count: int, size: int) -> None:
        """Takes note of what was published."""
        if not self.entries or self.entries[-1] is not entry:
            self.entries.append(entry)
            if len(self.entries) > _ENTRIES_TIDIED:
                self.entries = [entry for entry in self.entries if not entry.answered]
        self._published += count
        self.bytes_this_turn += size

    async def all(self) -> list[Confirm]:
        """Waits for all confirms; no more is published."""
        self._complete = True
        if self._confirmed == self._published and not self.future.done():
            self.future.set_result(None)
        await self.future
        return self._confirms

    def end(self) -> None:
        """Takes no more answers."""
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()  # whatever it was, it was raised or something else was raised first

    def note(self) -> str:
        """Says how far it came."""
        return f"{self._confirmed} of {self._published} messages taken from the payloads were confirmed before"

    # --- As a waiter ---

    def done(self) -> bool:
        """Returns whether it takes no more answers."""
        return self.future.done()

    def set_result(self, confirm: Confirm, /) -> None:
        """Takes the confirm of one batch."""
        self._confirms.append(confirm)
        self._confirmed += confirm.count
        if self._complete and self._confirmed == self._published:
            self.future.set_result(None)

    def set_exception(self, exception: BaseException, /) -> None:
        """Takes the error of one batch; it ends all."""
        self.future.set_exception(exception)
