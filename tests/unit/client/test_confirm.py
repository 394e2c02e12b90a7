"""The confirm, as the application keeps it."""

import gc
from weakref import ref

from tidings.client.confirm import Confirm, published_by, publisher_of
from tidings.model import Receipt


class Publisher:
    """A client that keeps what it was told."""

    def __init__(self) -> None:
        self.told = published_by(self, Confirm("orders", 1, 7, 1, "disk", 0))

    async def _await_receipt(self, *_: object) -> Receipt:
        raise AssertionError("nobody asks")


def test_a_client_that_keeps_its_confirms_is_forgotten_with_them() -> None:
    publisher = Publisher()
    assert publisher_of(publisher.told) is publisher
    gone = ref(publisher)
    del publisher
    gc.collect()
    assert gone() is None
