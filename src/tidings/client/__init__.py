"""The client: publishes, subscribes, and keeps its connection up."""

from tidings.client.client import Client
from tidings.client.message import Message, MessageBatch
from tidings.client.subscription import Subscription

__all__ = ["Client", "Message", "MessageBatch", "Subscription"]
