"""The queues that are measured, by the name they have on the command line."""

from benchmarks.peers import floor, mosquitto, nats, rabbitmq, redis, tidings
from benchmarks.peers.peer import Connection, Peer, Server

PEERS: dict[str, Peer] = {
    peer.name: peer for module in (floor, tidings, nats, redis, rabbitmq, mosquitto) for peer in module.PEERS
}
OURS = ("tidings", "tidings-batches")
OTHERS = tuple(name for name in PEERS if name not in OURS and name != "floor")

__all__ = ["OTHERS", "OURS", "PEERS", "Connection", "Peer", "Server"]
