"""What listings say of one name."""

from tidings.errors import NotFound
from tidings.model import QueueInfo, SubscriptionInfo
from tidings.node import Conversation


async def subscription_infos(conversation: Conversation, name: str) -> list[SubscriptionInfo]:
    """Returns what is known of a subscription, an entry for each of its queues; empty if there is none of the name."""
    found: list[SubscriptionInfo] = []
    after = ""
    while True:
        page = await conversation.list("subscriptions", after, name)
        found += [info for info in page.entries if isinstance(info, SubscriptionInfo)]
        if not page.after:
            return found
        after = page.after


async def queue_info(conversation: Conversation, name: str) -> QueueInfo:
    """Returns what is known of a queue.

    Raises:
        NotFound: there is none of the name.
    """
    page = await conversation.list("queues", name=name)
    for info in page.entries:
        assert isinstance(info, QueueInfo), "it is a listing of queues"
        return info
    raise NotFound(f"there is no queue {name!r}; GET /queues lists them")
