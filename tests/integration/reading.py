"""What tests read of a subscription."""

import asyncio

import tidings
from tests.integration.processes import DEADLINE_S


async def take(subscription: tidings.Subscription, count: int) -> list[tidings.Message]:
    """Returns the next messages, not acked."""
    messages: list[tidings.Message] = []
    async with asyncio.timeout(DEADLINE_S):
        async for message in subscription:
            messages.append(message)
            if len(messages) == count:
                break
    return messages


def told(subscription: tidings.Subscription) -> list[tuple[int, int, str]]:
    """Returns its gaps as (first, last, reason)."""
    return [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in subscription.gaps]
