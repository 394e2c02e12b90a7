"""The confirm as the application gets it: it can wait for what becomes of its message."""

from typing import ClassVar, Protocol, TypeVar
from weakref import ref

from msgspec.structs import force_setattr

from tidings import model
from tidings.errors import InvalidOption
from tidings.model import Receipt


class Asking(Protocol):
    """Whoever published, and asks for receipts."""

    async def _await_receipt(self, confirm: model.Confirm, subscription: str, timeout: float | None) -> Receipt:
        """Waits until a subscription has acked what was confirmed."""
        ...


class Confirm(model.Confirm, frozen=True, gc=True, dict=True):
    """The server's durable answer to a publish.

    `sequence` is the message's (for several messages the first one's) place in the queue's life `epoch`;
    `durability` is the level reached: "memory", "disk" (fsynced) or "quorum"; `subscriptions` is the number
    of subscriptions whose names match, connected or away. `duplicate_of` is the sequence of the message that the
    queue had stored before under the same id, and None for one that was stored. `handle` cancels a message that is
    published later; it has no place yet, and `sequence`, `epoch` and `subscriptions` are 0.
    """

    # The dict (and so gc) is for its client, which is no field: it is neither shown, compared nor encoded. It is known
    # weakly: the garbage collector does not see what a struct has besides its fields.
    __module__ = "tidings"
    _client: ClassVar["ref[Asking] | None"] = None

    async def delivered_to(self, subscription: str, *, timeout: float | None = 30.0) -> Receipt:
        """Waits until a subscription has acked the message, or all messages if it is the confirm of several.

        Args:
            subscription: its name, or a client id that has only one.
            timeout: time limit in seconds; None waits as long as it takes.

        Returns:
            Receipt: with state "acked"; that is on disk.

        Raises:
            GivenUp: the subscription gave a message up (it is a dead letter), or cannot get it any more (a gap).
            NotFound: there is no such subscription, or the message is not meant for it.
            TimedOut: the time limit passed; the text says how far the subscription is.
        """
        return await publisher_of(self)._await_receipt(self, subscription, timeout)


C = TypeVar("C", bound=Confirm)


def published_by(client: Asking, confirm: C) -> C:
    """Returns a confirm that knows who can ask for its receipts."""
    force_setattr(confirm, "_client", ref(client))
    return confirm


def publisher_of(confirm: Confirm) -> Asking:
    """Returns who can ask for the receipts of a confirm.

    Raises:
        InvalidOption: there are none.
    """
    if confirm.handle is not None:
        raise InvalidOption(f"message {confirm.handle} is published later; nobody has it before, and it has no receipt")
    client = confirm._client() if confirm._client else None
    if client is None:
        raise InvalidOption(
            "this confirm did not come from a client that is still there; client.receipts(queue, sequence) asks for any"
        )
    return client
