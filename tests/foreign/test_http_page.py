"""docs/doors/http.md: its commands run with curl, in the order of the page, and its worker with httpx."""

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.integration.processes import DEADLINE_S, Server, environment

PAGE = (Path(__file__).parents[2] / "docs" / "doors" / "http.md").read_text(encoding="utf-8")
DEFAULT_URL = "http://127.0.0.1:7480"
needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None, reason="curl or bash is missing (apt install curl)"
)


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


async def run(*command: str, cwd: Path) -> str:
    """Returns what a program prints; it has to end well."""
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=environment() | {"NO_PROXY": "*"},
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
    assert child.returncode == 0, f"{output.decode()}\n{errors.decode()}"
    return output.decode()


@needs_curl
async def test_the_commands_and_then_the_worker_run(tmp_path: Path) -> None:
    script = "set -euo pipefail\n" + "echo\n".join(examples("sh"))
    [worker] = examples("python")
    with Server(tmp_path, http=True) as server:
        said = await run("bash", "-c", script.replace(DEFAULT_URL, server.http_url), cwd=tmp_path)
        shipped = await run(sys.executable, "-c", worker.replace(DEFAULT_URL, server.http_url), cwd=tmp_path)
    assert '"sequence":1' in said
    assert '"payload":{"id": 7, "total": 12.5}' in said
    assert '"cursor":1' in said, "it was acked"
    assert '"sequences":[2,3]' in said
    assert '"sequences":[4,5]' in said
    assert '"type":"order.created"' in said
    assert '{"awaited":true}\n{"price": 108}' in said or '{"awaited":true}{"price": 108}' in said
    assert (tmp_path / "page.png").read_bytes() == b"pixels"
    assert "image/png" in said, "the content type is that of the payload"
    assert "ce-tidingsposition: " in said
    assert shipped.split("\n")[:-1] == [f"ship order {number}" for number in (7, 8, 9, 10)]


def test_all_examples_say_where_their_server_is() -> None:
    assert len(examples("sh")) >= 7
    for example in examples("sh") + examples("python"):
        assert DEFAULT_URL in example
