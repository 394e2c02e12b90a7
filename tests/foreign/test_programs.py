"""The programs of other makers that the tests use do run here, or are skipped."""

from pathlib import Path

from tests.foreign.programs import Browser, NodeProgram, needs_browser, needs_node


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
