"""Real processes for the tests: servers, publishers and subscribers that are started, killed and waited for."""

import asyncio
import inspect
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import tidings

SOURCES = Path(tidings.__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
DEADLINE_S = 30.0
_POLL_S = 0.02


async def eventually(
    condition: Callable[[], object | Awaitable[object]], deadline_s: float = DEADLINE_S, what: str = ""
) -> None:
    """Returns once `condition` is true, which may be a coroutine function; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        if time.monotonic() > end:
            raise AssertionError(f"not true within {deadline_s} s: {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(_POLL_S)


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a child process: it imports the same sources as the tests."""
    return {**os.environ, "PYTHONPATH": str(SOURCES), "PYTHONUNBUFFERED": "1", **more}


class Process:
    """A child process, ended by its id whatever happens.

    Arguments:
        arguments: of the interpreter.
        log: where its errors go.
        prefix: a command that runs it, such as a tracer.
        interpreter: what runs it, this Python by default.
        with_children: whether what it starts ends with it, when it is killed.
    """

    def __init__(
        self,
        *arguments: str | Path,
        log: Path,
        prefix: Sequence[str | Path] = (),
        interpreter: str = sys.executable,
        with_children: bool = False,
    ) -> None:
        self.log = log
        with log.open("ab") as errors:
            self._child = subprocess.Popen(
                [*map(str, prefix), interpreter, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(),
                process_group=0 if with_children else None,
            )
        self._with_children = with_children
        self._output = b""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def resident_bytes(self) -> int:
        """Returns the memory that it occupies."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def peak_bytes(self) -> int:
        """Returns the most memory that it has occupied."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    def read_line(self, deadline_s: float = DEADLINE_S) -> str:
        """Returns the next line of its output."""
        assert self._child.stdout is not None
        end = time.monotonic() + deadline_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._output:
                ready = selector.select(max(0.0, end - time.monotonic()))
                data = os.read(self._child.stdout.fileno(), 65_536) if ready else b""
                if not data:
                    raise AssertionError(f"no line of output within {deadline_s} s; its log: {self.log.read_text()}")
                self._output += data
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it still runs."""
        if self.running:
            self._child.send_signal(number)

    def kill(self) -> None:
        """Ends it with `kill -9`."""
        if self._with_children and self.running:
            os.killpg(self.pid, signal.SIGKILL)
        self.signal(signal.SIGKILL)
        self._child.wait(DEADLINE_S)

    def terminate(self, deadline_s: float = DEADLINE_S) -> int:
        """Ends it with SIGTERM; returns its exit code."""
        self.signal(signal.SIGTERM)
        return self._child.wait(deadline_s)

    def interrupt(self) -> int:
        """Ends it with SIGINT, as Ctrl-C does; returns its exit code."""
        self.signal(signal.SIGINT)
        return self._child.wait(DEADLINE_S)

    def end(self) -> None:
        """Makes sure that it is gone."""
        # One that was stopped by a signal dies of SIGKILL, too.
        self.kill()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Server:
    """`python -m tidings serve` on one data file, which keeps its port over restarts.

    Arguments:
        directory: for the data file and the log.
        program: what python runs, if it is not `-m tidings`.
        prefix: a command that runs the server, such as a tracer.
        http: whether it has the web doors, too.
        options: more of `serve`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        program: Sequence[str | Path] = ("-m", "tidings"),
        prefix: Sequence[str | Path] = (),
        http: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self._options = options
        self._program = program
        self.prefix = prefix
        self.data_file = directory / "events.db"
        self.log = directory / "server.log"
        self._port = 0
        self._http_port = 0 if http else None
        self._process: Process | None = None

    @property
    def http_url(self) -> str:
        """Where the web doors are."""
        return f"http://127.0.0.1:{self._http_port}"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"tidings://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    @property
    def process(self) -> Process:
        """The present process."""
        assert self._process is not None, "the server was not started"
        return self._process

    def start(self) -> None:
        """Starts a process and waits until it accepts connections."""
        assert self._process is None or not self._process.running, "it runs already"
        options = ["serve", "--store", f"sqlite:{self.data_file}", "--listen", self.url, *self._options]
        if self._http_port is not None:
            options += ["--listen", self.http_url]
        self._process = Process(*self._program, *options, log=self.log, prefix=self.prefix)
        line = self._process.read_line()
        assert line.startswith("ready tidings://127.0.0.1:"), line
        urls = line.split()[1:]
        self._port = int(urls[0].rpartition(":")[2])
        if self._http_port is not None:
            self._http_port = int(urls[1].rpartition(":")[2])

    def kill(self) -> None:
        """Ends the process with `kill -9`."""
        self.process.kill()

    def terminate(self) -> int:
        """Ends the process with SIGTERM; returns its exit code."""
        return self.process.terminate()

    def end(self) -> None:
        """Makes sure that nothing runs any more."""
        if self._process is not None:
            self._process.end()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Publisher(Process):
    """A process that publishes until SIGTERM; `confirmed` is what it was told is stored."""

    def __init__(self, directory: Path, url: str, queue: str, name: str, *, way: str) -> None:
        self._confirms = directory / f"{name}.confirmed"
        self._confirms.touch()
        script = HERE / "publisher_process.py"
        super().__init__(script, url, queue, name, way, self._confirms, log=directory / f"{name}.log")

    @property
    def progress(self) -> int:
        """Grows with every confirm."""
        return self._confirms.stat().st_size

    def confirmed(self) -> dict[int, str]:
        """Returns payloads by the sequence that their confirm told."""
        found: dict[int, str] = {}
        for line in _whole_lines(self._confirms):
            sequence, payload = line.split()
            assert int(sequence) not in found, f"sequence {sequence} was confirmed twice"
            found[int(sequence)] = payload
        return found


class Delivery:
    """One line of a subscriber: a message that it was handed."""

    def __init__(self, line: str) -> None:
        sequence, attempt, redelivered, self.payload = line.split()
        self.sequence = int(sequence)
        self.attempt = int(attempt)
        self.redelivered = redelivered == "True"


class Subscriber(Process):
    """A process that subscribes until SIGTERM; `deliveries` is what it was handed, before it acked it."""

    def __init__(self, directory: Path, url: str, queue: str, name: str, *, way: str) -> None:
        self._received = directory / f"{name}.received"
        self._received.touch()
        script = HERE / "subscriber_process.py"
        super().__init__(script, url, queue, name, way, self._received, log=directory / f"{name}.log")

    @property
    def progress(self) -> int:
        """Grows with every delivery."""
        return self._received.stat().st_size

    def deliveries(self) -> list[Delivery]:
        """Returns what it was handed, in order; over all processes of this name in this directory."""
        return [Delivery(line) for line in _whole_lines(self._received)]


async def stored_messages(server: Server, queue: str) -> dict[int, str]:
    """Returns all messages of a queue, by sequence; it must have no holes."""
    stored: dict[int, str] = {}
    async with tidings.connect(server.url) as client:
        [info] = [info for info in await client.queues() if info.name == queue]
        async for batch in client.subscribe(queue, start="earliest").batches():
            stored |= {message.sequence: message.payload for message in batch}
            await batch.ack()
            if batch.last_sequence == info.last_sequence:
                break
    assert list(stored) == list(range(1, info.last_sequence + 1)), "the queue has holes"
    return stored


async def caught_up(server: Server) -> bool:
    """Says whether everything was acked for every durable subscription."""
    async with tidings.connect(server.url) as client:
        return all(info.lag == 0 for info in await client.subscriptions() if info.durable)


async def all_go_on(*processes: Publisher | Subscriber) -> None:
    """Returns once each has confirmed or received some hundred messages more."""
    goals = [(process, process.progress + 2_000) for process in processes]
    await eventually(
        lambda: all(process.progress > goal for process, goal in goals),
        what="publishers and subscribers go on",
    )


def _whole_lines(path: Path) -> list[str]:
    # A process that was killed may have left half a line.
    return path.read_text().rpartition("\n")[0].splitlines()


def first_deliveries(deliveries: list[Delivery]) -> list[Delivery]:
    """Returns each message's first delivery, in the order in which they came."""
    found: dict[int, Delivery] = {}
    for delivery in deliveries:
        found.setdefault(delivery.sequence, delivery)
    return list(found.values())


async def run_command(
    *arguments: str | Path, directory: Path, server: str = "", data: bytes = b"", deadline_s: float = DEADLINE_S
) -> tuple[int, str, str]:
    """Runs `python -m tidings` as a user does; returns exit code, output and errors."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tidings",
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=directory,
        env=environment(TIDINGS_SERVER=server) if server else environment(),
    )
    try:
        async with asyncio.timeout(deadline_s):
            output, errors = await child.communicate(data)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode is not None
    return child.returncode, output.decode(), errors.decode()
