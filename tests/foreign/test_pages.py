"""The pages of the doors: their examples run, each against a server of its own, and end by themselves."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.foreign.programs import HERE, NODE, needs_node
from tests.integration.processes import DEADLINE_S, Server, environment

PAGE = (Path(__file__).parents[2] / "docs" / "doors" / "socketio.md").read_text(encoding="utf-8")
DEFAULT_URL = "http://localhost:7480"


def examples(language: str) -> list[str]:
    """Returns the blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


async def run(*command: str, cwd: Path) -> str:
    """Returns what a program prints; it has to end well."""
    child = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, errors = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 0, errors.decode()
    return output.decode()


@needs_node
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, ["stored on disk as 1", "to be billed: 7"]),
        (1, ["shipped: 7", "shipped: 9"]),
        (3, ["costs 108"]),
        (2, ["audit is new", "stored as 1", "shop.berlin created 1 { id: 7 }"]),
    ],
)
async def test_an_example_in_javascript_runs(number: int, said: list[str], tmp_path: Path) -> None:
    source = examples("js")[number]
    assert DEFAULT_URL in source, "an example says where its server is"
    with Server(tmp_path, http=True) as server:
        source = source.replace(DEFAULT_URL, server.http_url)
        output = await run(str(NODE), "--input-type=module", "--eval", source, cwd=HERE)
    assert set(said) <= set(output.splitlines()), output


async def test_the_example_in_python_runs(tmp_path: Path) -> None:
    [source] = examples("python")
    with Server(tmp_path, http=True) as server:
        output = await run(sys.executable, "-c", source.replace(DEFAULT_URL, server.http_url), cwd=tmp_path)
    assert "to be billed: 7" in output


def test_all_examples_are_run() -> None:
    assert len(examples("js")) == 4
