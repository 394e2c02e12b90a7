"""The pages of Server-Sent Events, WebSocket and webhooks: their examples run, and end by themselves."""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.foreign.programs import HERE, NODE, needs_node
from tests.integration.processes import DEADLINE_S, Server, environment

DOORS = Path(__file__).parents[2] / "docs" / "doors"
WEB_URLS = ("http://localhost:7480", "http://127.0.0.1:7480")
NATIVE_URL = "tidings://127.0.0.1:7433"
JAVASCRIPT = {
    ("server-sent-events", 0): ["created: 7 sequence 1"],
    ("server-sent-events", 1): ["to be billed: 8", "acked: 204"],
    ("websocket", 0): ["stored on disk as 1", "to be billed: 7"],
}
PYTHON = {"websocket": ["paid 12.5"], "webhooks": ["created {'id': 7}"]}


def examples(page: str, language: str) -> list[str]:
    """Returns the blocks of a language."""
    text = (DOORS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def aimed(source: str, server: Server) -> str:
    """Returns an example that is for this server."""
    assert any(url in source for url in (*WEB_URLS, NATIVE_URL)), "an example says where its server is"
    for url in WEB_URLS:
        source = source.replace(url, server.http_url)
    return source.replace(NATIVE_URL, server.url)


async def run(*command: str, cwd: Path, **variables: str) -> list[str]:
    """Returns the lines that a program prints; it has to end well."""
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=environment(NO_PROXY="*", **variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, errors = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 0, errors.decode()
    return output.decode().splitlines()


@needs_node
@pytest.mark.parametrize(("page", "number"), JAVASCRIPT)
async def test_an_example_in_javascript_runs(page: str, number: int, tmp_path: Path) -> None:
    source = examples(page, "js")[number]
    with Server(tmp_path, http=True) as server:
        said = await run(str(NODE), "--input-type=module", "--eval", aimed(source, server), cwd=HERE)
    assert said == JAVASCRIPT[page, number]


@pytest.mark.parametrize("page", PYTHON)
async def test_the_example_in_python_runs(page: str, tmp_path: Path) -> None:
    [source] = examples(page, "python")
    with Server(tmp_path, http=True, options=["--allow-webhook", "127.0.0.1"]) as server:
        said = await run(sys.executable, "-c", aimed(source, server), cwd=tmp_path)
    assert said == PYTHON[page]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing (apt install curl)")
async def test_the_commands_of_webhooks_run(tmp_path: Path) -> None:
    [source] = examples("webhooks", "sh")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with Server(tmp_path, http=True) as server:
        said = await run("sh", "-ec", aimed(source, server), cwd=tmp_path, TIDINGS_SERVER=server.url, PATH=path)
    assert said[0] == "webhook shop posts to https://shop.example/hooks"
    assert said[1].startswith("secret whsec_")
    assert any("orders/created" in line for line in said)
    assert any('"secret":"whsec_' in line for line in said)
    assert "deleted webhook shop" in said[-1]


def test_all_examples_are_run() -> None:
    for page in ("server-sent-events", "websocket", "webhooks"):
        assert len(examples(page, "js")) == sum(name == page for name, _ in JAVASCRIPT)
        assert len(examples(page, "python")) == (page in PYTHON)
