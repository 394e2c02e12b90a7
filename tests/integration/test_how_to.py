"""The how-to pages: their examples run, in the order of the page, against a real server."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.integration.processes import DEADLINE_S, Server, environment

PAGES = sorted((Path(__file__).parents[2] / "docs" / "how-to").glob("*.md"))
DEFAULT_URL = "tidings://127.0.0.1:7433"


def examples(page: Path) -> list[str]:
    """Returns the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
async def test_the_examples_of_the_page_run(page: Path, server: Server, tmp_path: Path) -> None:
    blocks = examples(page)
    assert blocks
    for number, source in enumerate(blocks, 1):
        assert DEFAULT_URL in source, "an example says where its server is"
        file = tmp_path / f"example_{number}.py"
        file.write_text(source.replace(DEFAULT_URL, server.url), encoding="utf-8")
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            file,
            cwd=tmp_path,
            env=environment(),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                _, errors = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        assert child.returncode == 0, f"example {number} of {page.name}: {errors.decode()}"


def test_there_are_pages() -> None:
    assert PAGES
