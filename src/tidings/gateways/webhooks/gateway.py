"""All webhooks of a node: those that it knows are at work, and no others."""

import asyncio
from collections.abc import Callable, Sequence

from tidings.gateways.webhooks.addresses import Network
from tidings.gateways.webhooks.sender import run_webhook
from tidings.model import Webhook
from tidings.node import Node


class WebhookGateway:
    """Posts what webhooks' subscriptions are delivered.

    Args:
        node: the node behind it.
        networks: addresses that webhooks may reach beside those of the internet.
    """

    def __init__(self, node: Node, networks: Sequence[Network] = ()) -> None:
        self._node = node
        self._networks = networks

    async def run(self) -> None:
        """Keeps webhooks at work until it is cancelled."""
        at_work: dict[str, tuple[Webhook, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._node.webhooks_changed.clear()
                wanted = {name: webhook for name, webhook in self._node.webhooks().items() if not webhook.disabled}
                for name, (webhook, task) in list(at_work.items()):
                    if wanted.get(name) != webhook:
                        del at_work[name]
                        task.cancel()
                        await asyncio.wait((task,))
                for name, webhook in wanted.items():
                    if name not in at_work:
                        working = run_webhook(self._node, webhook, self._networks, self._now_s)
                        at_work[name] = (webhook, tasks.create_task(working))
                await self._node.webhooks_changed.wait()

    @property
    def _now_s(self) -> Callable[[], int]:
        return lambda: self._node.clock.now_ms() // 1000
