"""The node: one running server process, which feeds a broker and obeys it."""

from tidings.node.clock import Clock, SystemClock
from tidings.node.node import Node
from tidings.node.peers import Peer

__all__ = ["Clock", "Node", "Peer", "SystemClock"]
