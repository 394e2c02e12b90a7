"""Dead letters as the application sees them, and the verbs for them."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from tidings import calls, limits
from tidings.client import payloads as encoding
from tidings.client.decoding import PLAIN
from tidings.client.options import rate_of, within
from tidings.client.requests import Requests
from tidings.errors import InvalidOption
from tidings.model import DeadLetterGroup, Failure


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up, for one subscription, and why. Times are UTC milliseconds since 1970.

    `number` names it within its subscription; queue, epoch and sequence say where it was published. `reason` is
    "attempts", "rejected", "ack timeout" or "connection lost". `failure` is the last error, if its client told one,
    and `client_id` who had it last. `fingerprint` is the same for all that failed with the same error in the same
    place.
    """

    number: int
    queue: str
    epoch: int
    sequence: int
    event: str
    data: bytes = msgspec.field(name="payload")
    """The payload as it was published, or edited: not decoded."""
    content_type: str
    id: str | None
    key: str | None
    headers: dict[str, str]
    published: int
    died: int
    reason: str
    attempts: int
    client_id: str | None
    fingerprint: str
    failure: Failure | None
    edited: bool

    @property
    def payload(self) -> Any:
        """The payload: JSON decoded, other content types as bytes.

        Raises:
            InvalidPayload: it is not valid JSON.
        """
        return PLAIN.decode_of(f"dead letter {self.number}", self.data, self.content_type)


class DeadLetters(Requests):
    """The verbs of a client for dead letters."""

    async def dead_letter_groups(self, subscription: str, *, timeout: float | None = 30.0) -> list[DeadLetterGroup]:
        """Returns how the dead letters of a subscription failed: one entry for each error in one place.

        Args:
            subscription: its name, or a client id that has only one.
            timeout: time limit in seconds.

        Returns:
            At most 500 groups, the largest first.

        Raises:
            NotFound: there is no such subscription.
        """
        groups: list[DeadLetterGroup] = await self._call(calls.DeadLetterGroups(subscription=subscription), timeout)
        return groups

    async def dead_letters(
        self,
        subscription: str,
        *,
        fingerprint: str | None = None,
        after: int = 0,
        limit: int | None = None,
        timeout: float | None = 30.0,
    ) -> AsyncIterator[DeadLetter]:
        """Iterates over the dead letters of a subscription, the oldest first. Looking changes nothing.

        Args:
            subscription: its name, or a client id that has only one.
            fingerprint: only those that failed in this way; see `dead_letter_groups`.
            after: only those with a number above this one.
            limit: at most so many, from 1; None is all.
            timeout: time limit in seconds for each page of them.

        Raises:
            NotFound: there is no such subscription.
            InvalidOption: the limit is out of its range.
        """
        left = within(limit, limits.DEAD_LETTERS_MAX, "limit")
        while left is None or left > 0:
            page = await self._dead_letters_after(subscription, after, fingerprint, left, timeout)
            if not page:
                return
            for letter in page:
                yield letter
            after = page[-1].number
            left = None if left is None else left - len(page)

    async def edit_dead_letter(
        self,
        subscription: str,
        number: int,
        *,
        payload: object = msgspec.UNSET,
        content_type: str | None = None,
        event: str | None = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        """Changes a dead letter before it is redriven; durable on return. What is left out stays as it is.

        Args:
            subscription: its name, or a client id that has only one.
            number: which of its dead letters.
            payload: a new payload, as for `publish`; it brings its content type with it.
            content_type: what the new payload is, as for `publish`.
            event: another event's name.
            headers: all headers anew; {} removes them.
            timeout: time limit in seconds.

        Raises:
            NotFound: there is no such subscription or dead letter.
            InvalidInput: the message could not be published like that.
            TimedOut: the time limit passed; it may be changed.
        """
        changes: dict[str, Any] = {}
        if payload is not msgspec.UNSET:
            encoding.check_content_type(content_type)
            changes["payload"], changes["content_type"] = encoding.encode_payload(payload, content_type)
        elif content_type is not None:
            raise InvalidOption("content_type says what a new payload is; pass the payload, too")
        if event is not None:
            changes["event"] = event
        if headers is not None:
            encoding.encode_message(b"", None, None, headers)  # raises what publishing would raise
            changes["headers"] = headers
        await self._call(calls.EditDeadLetter(subscription=subscription, number=number, **changes), timeout)

    async def delete_dead_letters(
        self,
        subscription: str,
        *,
        number: int | None = None,
        fingerprint: str | None = None,
        timeout: float | None = 30.0,
    ) -> int:
        """Deletes dead letters for good: one, those that failed in one way, or (neither given) all of a subscription.

        Args:
            subscription: its name, or a client id that has only one.
            number: which one.
            fingerprint: which way; see `dead_letter_groups`.
            timeout: time limit in seconds.

        Returns:
            How many; durable on return. If the connection was lost and the server asked again, it counts what was left.

        Raises:
            NotFound: there is no such subscription, or no such dead letter.
            TimedOut: the time limit passed; they may be deleted.
        """
        _check_one_choice(number, fingerprint)
        call = calls.DeleteDeadLetters(subscription=subscription, number=number, fingerprint=fingerprint)
        return int(await self._call(call, timeout))

    async def redrive(
        self,
        subscription: str,
        *,
        number: int | None = None,
        fingerprint: str | None = None,
        rate: float | None = None,
        timeout: float | None = 30.0,
    ) -> int:
        """Sends dead letters to their subscription again, and to no other: one, those of one way to fail, or all.

        They begin with attempt 1, and `Message.redriven` tells them.

        Args:
            subscription: its name, or a client id that has only one.
            number: which one.
            fingerprint: which way; see `dead_letter_groups`.
            rate: messages a second, 0.001 to 100,000; None is as fast as it goes.
            timeout: time limit in seconds for the answer, not for the redriving.

        Returns:
            How many will be. If the connection was lost and the server asked again, it counts what was left. They are
            moved one after another from now on; what is not moved when the server stops stays a dead letter.

        Raises:
            NotFound: there is no such subscription, or no such dead letter.
            InvalidOption: the rate is out of its range.
            TimedOut: the time limit passed; they may be redriven.
        """
        _check_one_choice(number, fingerprint)
        call = calls.Redrive(subscription=subscription, number=number, fingerprint=fingerprint, rate=rate_of(rate))
        return int(await self._call(call, timeout))

    async def _dead_letters_after(
        self, subscription: str, after: int, fingerprint: str | None, limit: int | None, timeout: float | None
    ) -> list[DeadLetter]:
        count = min(limit or limits.DEAD_LETTERS_PAGE_COUNT, limits.DEAD_LETTERS_PAGE_COUNT)
        call = calls.ListDeadLetters(subscription=subscription, after=after, fingerprint=fingerprint, count_max=count)
        page: list[DeadLetter] = await self._call(call, timeout, list[DeadLetter])
        return page


def _check_one_choice(number: int | None, fingerprint: str | None) -> None:
    if number is not None and fingerprint is not None:
        raise InvalidOption("number and fingerprint choose dead letters in two ways; pass one of them, or none for all")
