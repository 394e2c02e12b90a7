"""Programs of other makers for the tests: Node.js with packages of npm, and a browser without a window.

`make foreign` installs them where that can be done without asking; tests that need what is missing are skipped.
"""

import asyncio
import itertools
import json
import shutil
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.integration.processes import DEADLINE_S, Process, eventually

HERE: Final = Path(__file__).resolve().parent
PACKAGES: Final = HERE / "node_modules"
NODE: Final = shutil.which("node")
BROWSER: Final = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome", "chromium-browser"))), None
)

needs_node = pytest.mark.skipif(
    NODE is None or not PACKAGES.is_dir(),
    reason="Node.js or its packages are missing: make foreign (Debian, Ubuntu: apt install nodejs npm)",
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here: make foreign, as root (Debian: apt install chromium-headless-shell)"
)


class NodeProgram(Process):
    """A script of this directory, run by Node.js. What it prints is read with `read_line`, or as JSON."""

    def __init__(self, script: str, *arguments: str, log: Path) -> None:
        super().__init__(HERE / script, *arguments, log=log, interpreter=str(NODE))

    def read_json(self, deadline_s: float = DEADLINE_S) -> Any:
        """Returns the next line of its output, decoded."""
        return json.loads(self.read_line(deadline_s))

    def next(self, kind: str) -> Any:
        """Returns the value of the next line, which has to be of a kind."""
        found = self.read_json()
        assert found[0] == kind, found
        return found[1]


class Browser:
    """Chromium without a window, told what to do over its debugging protocol.

        async with Browser(tmp_path) as browser:
            await browser.open("http://127.0.0.1:7480/health")
            assert await browser.run("location.pathname") == "/health"

    Arguments:
        directory: for its profile and its log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: Process | None = None
        self._page: ClientConnection | None = None
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        log = self._directory / "browser.log"
        options = (
            "--headless",
            "--no-sandbox",  # the tests may run as root, whom its sandbox refuses
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={self._directory / 'browser'}",
            "about:blank",
        )
        # Debian's command is a script that stays in front of the browser: killed alone, it leaves that behind.
        self._process = Process(*options, log=log, interpreter=str(BROWSER), with_children=True)
        try:
            port = await self._debugging_port()
            pages = await asyncio.to_thread(_read_json, f"http://127.0.0.1:{port}/json/list")
            page = next(page for page in pages if page["type"] == "page")
            self._page = await connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None)
            await self._ask("Page.enable")
        except BaseException:
            self._process.end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._page is not None:
            await self._page.close()
        self._process.end()

    @property
    def process(self) -> Process:
        """The process that was started, and with it those of the browser."""
        assert self._process is not None, "the browser was not started"
        return self._process

    async def open(self, url: str) -> None:
        """Goes to a page, whose origin what is run then has."""
        answer = await self._ask("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        await self.run("new Promise(done => document.readyState == 'complete' ? done() : onload = () => done())")

    async def run(self, script: str) -> Any:
        """Returns what an expression gives; a promise is waited for. What it throws fails the test."""
        answer = await self._ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def _ask(self, method: str, **arguments: object) -> Any:
        assert self._page is not None
        number = next(self._numbers)
        await self._page.send(json.dumps({"id": number, "method": method, "params": arguments}))
        async with asyncio.timeout(DEADLINE_S):
            while True:
                said = json.loads(await self._page.recv())
                if said.get("id") == number:
                    assert "error" not in said, said["error"]
                    return said["result"]

    async def _debugging_port(self) -> int:
        # It writes the port it was given into its profile.
        file = self._directory / "browser" / "DevToolsActivePort"
        await eventually(lambda: file.exists() and "\n" in file.read_text(), what="the browser listens")
        return int(file.read_text().split()[0])


def _read_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        return json.load(answer)
