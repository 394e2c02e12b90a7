"""The node: one running server process, which feeds a broker and obeys it."""

from tidings.node.attachment import Attachment
from tidings.node.clock import Clock, SystemClock
from tidings.node.conversation import Conversation, open_conversation
from tidings.node.decoded import Delivery
from tidings.node.drafts import Draft
from tidings.node.metrics import Histogram, Metrics
from tidings.node.node import Node
from tidings.node.peers import Peer
from tidings.node.requests import Request, begin_request, respond_soon

__all__ = [
    "Attachment",
    "Clock",
    "Conversation",
    "Delivery",
    "Draft",
    "Histogram",
    "Metrics",
    "Node",
    "Peer",
    "Request",
    "SystemClock",
    "begin_request",
    "open_conversation",
    "respond_soon",
]
