"""The rules of delivery, pure: `Broker.handle(input, now_ms) -> list[Effect]`."""

from tidings.broker.broker import Broker
from tidings.broker.records import restore

__all__ = ["Broker", "restore"]
