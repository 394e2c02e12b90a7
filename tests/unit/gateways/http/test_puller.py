"""The puller by itself, with what comes at moments that a real node reaches by chance only."""

import asyncio
from typing import Any, cast

import pytest

from tidings.broker import effects, inputs
from tidings.gateways.http.puller import Puller
from tidings.node import Attachment, Conversation

GAP = effects.Gap(1, 1, "orders", 7, 1, 3, "trimmed")


class EmptyConversation:
    """Answers that nothing is there; right after the first answer something comes."""

    connection = 1

    def __init__(self) -> None:
        self.attachment = Attachment(cast("Conversation", self), 1, None)

    async def ask(self, _: Any, *, answered: None) -> None:
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
    puller = Puller(EmptyConversation().attachment)
    try:
        async with asyncio.timeout(5):
            assert await puller.pull(1, 60_000, forever) == [GAP]
    except TimeoutError:
        pytest.fail("it came, and the request went on waiting")
