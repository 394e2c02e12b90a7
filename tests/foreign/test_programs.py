"""The programs of other makers that the tests use do run here, or are skipped."""

import os
from pathlib import Path

from tests.foreign.programs import Browser, NodeProgram, needs_browser, needs_node
from tests.integration.processes import eventually


@needs_node
def test_node_finds_the_packages(tmp_path: Path) -> None:
    with NodeProgram("packages.mjs", log=tmp_path / "node.log") as program:
        assert program.read_json() == ["EventSource", "WebSocket", "io"]


@needs_browser
async def test_a_browser_runs_scripts_on_a_page(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<title>here</title>")
    async with Browser(tmp_path) as browser:
        await browser.open((tmp_path / "page.html").as_uri())
        assert await browser.run("Promise.resolve(document.title)") == "here"


@needs_browser
async def test_a_browser_leaves_no_process_behind(tmp_path: Path) -> None:
    async with Browser(tmp_path) as browser:
        group = browser.process.pid
        assert os.getpgid(group) == group
    await eventually(lambda: not _has_processes(group), what="all of the browser has ended")


def _has_processes(group: int) -> bool:
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if int(its_group) == group and state != "Z":
            return True
    return False
