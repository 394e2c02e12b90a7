"""What the tests of stores share."""

from collections.abc import Callable

import pytest

from tidings.store.sqlite.schema import PAGE_BYTES


@pytest.fixture
def body_page() -> Callable[[bytearray, bytes], int]:
    """Finds where in a data file the first page begins that holds nothing but a body of one letter.

    Such a page starts with the number of the next page of the same body, 4 bytes.
    """

    def find(content: bytearray, letter: bytes) -> int:
        for start in range(PAGE_BYTES, len(content), PAGE_BYTES):
            # Pages that hold rows begin with their kind, 2 to 13; as a page number that would be far too large.
            if content[start] == 0 and content[start + 4 : start + 1000] == letter * 996:
                return start
        raise AssertionError(f"no page is full of {letter!r}")

    return find
