"""The gateway port: what a node needs of a connection, whatever protocol it speaks."""

from typing import Protocol

from tidings.broker.effects import ToConnection


class Peer(Protocol):
    """One client's connection, as a gateway shows it to the node.

    A gateway turns what its client says into inputs and gives them to `Node.submit` (publishes to
    `Node.publish`), and turns effects into what its client understands. No rule of delivery lives in it.
    """

    connection: int
    """The number that the node gave it."""

    def obey(self, effect: ToConnection) -> None:
        """Spells an effect into the send buffer. `Close` ends the connection once the buffer is written."""
        ...

    def flush(self) -> None:
        """Writes what was spelled; called once a round."""
        ...

    def pause_reading(self) -> None:
        """Stops taking bytes from the client: too much of what it published waits."""
        ...

    def resume_reading(self) -> None:
        """Takes bytes again."""
        ...
