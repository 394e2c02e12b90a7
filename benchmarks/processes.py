"""Starts the processes of a run, listens to what they say, and ends them by their ids."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

END_TIMEOUT_S = 15.0
START_TIMEOUT_S = 60.0


class Failed(Exception):
    """A run did not come to its end; the text says why."""


class Process:
    """A process that says words on its standard output, one a line, and goes on when it is told."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        # Without places of this machine: it may come to stand in the page.
        self._name = " ".join([Path(command[0]).name, *(word for word in command[1:] if os.sep not in word)])[:120]
        self._log = log
        with log.open("ab") as errors:
            # A session of its own, so that what it starts ends with it.
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout
        for line in self._popen.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put("")  # the end

    @property
    def id(self) -> int:
        """The process's id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def hear(self, word: str, timeout_s: float) -> str:
        """Waits until the process says a word; returns the rest of that line. Lines with other words are passed."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise Failed(f"{self._name}: no {word!r} within {timeout_s:.0f} s; {self.last_words()}") from None
            if not line and not self.running:
                raise Failed(f"{self._name}: ended before it said {word!r}; {self.last_words()}")
            said, _, rest = line.partition(" ")
            if said == word:
                return rest

    def figures(self, timeout_s: float) -> dict[str, Any]:
        """Waits for the figures that a part of a workload ends with."""
        found: dict[str, Any] = json.loads(self.hear("figures", timeout_s))
        return found

    def go(self) -> None:
        """Tells the process to go on."""
        self.tell("go")

    def tell(self, what: object) -> None:
        """Writes a line of JSON to the process's standard input."""
        assert self._popen.stdin
        try:
            self._popen.stdin.write(json.dumps(what) + "\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self._name}: ended too early; {self.last_words()}") from None

    def last_words(self) -> str:
        """Returns the end of what it wrote to its standard error."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else "it wrote no error"

    def end(self) -> None:
        """Ends the process and all that it started: first with a request, then without one."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                if self.running:
                    self._popen.send_signal(number)
                self._popen.wait(END_TIMEOUT_S)
                break
            except subprocess.TimeoutExpired:
                continue
        with contextlib.suppress(ProcessLookupError):  # there is nothing left of its session, as it should be
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._reader.join(END_TIMEOUT_S)
        for pipe in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(BrokenPipeError):  # what it did not read any more
                if pipe:
                    pipe.close()


@contextlib.contextmanager
def started(
    command: Sequence[object], directory: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Starts a process, and ends it whatever happens. Its errors go to a file in `directory`."""
    words = [str(word) for word in command]
    process = Process(words, directory / f"{Path(words[0]).name}-{time.monotonic_ns()}.log", environment)
    try:
        yield process
    finally:
        process.end()


def free_port() -> int:
    """Returns a loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, process: Process) -> None:
    """Waits until a server that was just started accepts connections."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if not process.running or time.monotonic() > deadline_s:
                raise Failed(f"the server did not start: {process.last_words()}") from None
            time.sleep(0.05)
