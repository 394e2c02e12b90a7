"""The puller by itself, with what comes at moments that a real node reaches by chance only."""

import asyncio
from typing import Any, cast

import pytest

from tidings.broker import effects, inputs
from tidings.gateways.http.puller import Puller
from tidings.model import reading_of
from tidings.node import Attachment, Conversation

GAP = effects.Gap(1, 1, "orders", 7, 1, 3, "trimmed")


class EmptyConversation:
    """Answers that nothing is there; right after that something comes, or not."""

    connection = 1

    def __init__(self, *, comes: bool) -> None:
        self._comes = comes
        self.attachment = Attachment(cast("Conversation", self), 1, None)

    async def ask(self, _: Any, *, answered: None) -> None:
        if self._comes:
            asyncio.get_running_loop().call_soon(self._come)

    def submit(self, input: inputs.Ask) -> None:
        assert input.count == 0

    def _come(self) -> None:
        self.attachment.arrived(GAP)
        self.attachment.wake()


async def forever() -> None:
    """The client of a request that stays."""
    await asyncio.get_running_loop().create_future()


async def test_what_comes_right_after_nothing_was_there_is_not_waited_for_until_the_time_is_over() -> None:
    puller = Puller(EmptyConversation(comes=True).attachment)
    try:
        async with asyncio.timeout(5):
            assert await puller.pull(1, 60_000, forever) == [GAP]
    except TimeoutError:
        pytest.fail("it came, and the request went on waiting")


@pytest.mark.parametrize(("ack_timeout_ms", "again"), [(0, [GAP]), (60_000, [])])
async def test_a_gap_is_told_again_after_the_ack_timeout_since_the_answer_may_be_lost(
    ack_timeout_ms: int, again: list[effects.Gap]
) -> None:
    attachment = EmptyConversation(comes=False).attachment
    attachment.ack_timeout_ms = ack_timeout_ms
    attachment.arrived(GAP)
    puller = Puller(attachment)
    assert await puller.pull(9, 0, forever) == [GAP]
    assert await puller.pull(9, 0, forever) == again
    told = (GAP.epoch, GAP.last_sequence, GAP.last_sequence)
    puller.settled([told], acked=False)
    assert await puller.pull(9, 0, forever) == again, "who gives it back has not acked it"
    puller.settled([told], acked=True)
    assert await puller.pull(9, 0, forever) == []


async def test_a_gap_that_a_moved_subscription_is_told_anew_is_not_told_as_before() -> None:
    attachment = EmptyConversation(comes=False).attachment
    before, anew = (effects.Gap(1, 1, "orders", reading_of(7, moves), 1, 3, "trimmed") for moves in (0, 1))
    of_another_queue = effects.Gap(1, 1, "bills", 8, 1, 3, "trimmed")
    puller = Puller(attachment)
    for gap in (before, of_another_queue, anew):
        attachment.arrived(gap)
    assert await puller.pull(3, 0, forever) == [before, of_another_queue, anew]
    assert await puller.pull(3, 0, forever) == [of_another_queue, anew]


async def test_a_gap_that_is_not_acked_keeps_no_message_waiting() -> None:
    class Busy:
        """Has a gap at first, and then messages for all who ask."""

        ack_timeout_ms = 0
        error = None

        def __init__(self) -> None:
            self.there: list[Any] = [GAP]
            self.messages = [object(), object()]

        def take(self) -> Any:
            return self.there.pop(0) if self.there else None

        async def ask(self, count: int) -> None:
            self.there, self.messages = self.messages[:count], self.messages[count:]

    busy = Busy()
    first, second = busy.messages
    puller = Puller(cast("Attachment", busy))
    answers = [await puller.pull(count, 0, forever) for count in (1, 1, 2, 2)]
    assert answers == [[GAP], [first], [second, GAP], [GAP]]
