"""The client: publishes, subscribes, and keeps its connection up."""

from tidings.client.client import Client
from tidings.client.confirm import Confirm
from tidings.client.dead_letters import DeadLetter
from tidings.client.handlers import Reject
from tidings.client.history import StoredMessage
from tidings.client.message import Message, MessageBatch
from tidings.client.options import Prefix
from tidings.client.replies import Reply
from tidings.client.subscription import Subscription
from tidings.client.transaction import Transaction

__all__ = [
    "Client",
    "Confirm",
    "DeadLetter",
    "Message",
    "MessageBatch",
    "Prefix",
    "Reject",
    "Reply",
    "StoredMessage",
    "Subscription",
    "Transaction",
]
