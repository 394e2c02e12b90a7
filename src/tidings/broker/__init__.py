"""The rules of delivery, pure: `Broker.handle(input, now_ms) -> list[Effect]`."""

from tidings.broker.broker import Broker
from tidings.broker.records import PREFIXES
from tidings.broker.restore import queue_epochs, restore

__all__ = ["PREFIXES", "Broker", "queue_epochs", "restore"]
