"""Listings as pages, and what they say of one name."""

from typing import Final

from tidings.broker import effects
from tidings.errors import NotFound
from tidings.model import QueueInfo, SubscriptionInfo
from tidings.node import Conversation

_LAST: Final = "\U0010ffff"


async def subscription_infos(conversation: Conversation, name: str) -> list[SubscriptionInfo]:
    """Returns what is known of a subscription, an entry for each of its queues; empty if there is none of the name."""
    found: list[SubscriptionInfo] = []
    after = name  # keys of entries are longer
    while True:
        page = await conversation.list("subscriptions", after)
        infos = [info for info in page.entries if isinstance(info, SubscriptionInfo) and info.name == name]
        found += infos
        if not page.after or len(infos) < len(page.entries):
            return found
        after = page.after


async def queue_info(conversation: Conversation, name: str) -> QueueInfo:
    """Returns what is known of a queue.

    Raises:
        NotFound: there is none of the name.
    """
    if name:
        before = name[:-1] + chr(max(0, ord(name[-1]) - 1)) + _LAST  # names are in order, and none is between these two
        page: effects.Listing = await conversation.list("queues", before)
        for info in page.entries:
            if isinstance(info, QueueInfo) and info.name == name:
                return info
    raise NotFound(f"there is no queue {name!r}; GET /queues lists them")
