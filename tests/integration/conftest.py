"""What the integration tests share: a server process on a file of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.processes import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as server:
        yield server
