"""Shortages: a disk that is full or takes no writes, and descriptors that run out, under a server that goes on.

Each function starts a server of its own, takes something from it, and gives it back without a restart.
"""

# ruff: noqa: ASYNC220, ASYNC221 -- nothing else runs on the loop while a tool is started

import asyncio
import os
import resource
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import tidings
from tests.integration.processes import DEADLINE_S, Server, eventually, run_command, stored_messages
from tests.soak.altered_server import altered
from tidings import limits
from tidings.errors import DiskFull, StoreUnavailable, TidingsError

TIDINGS: Sequence[str | Path] = ("-m", "tidings")
_QUEUE = "orders"
_PAYLOAD = b"." * 5_000
_DISK_BYTES = limits.DISK_RESERVE_BYTES + 4 * limits.SQLITE_LOG_BYTES_MAX


def may_mount() -> bool:
    """Says whether this process may mount a file system."""
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextmanager
def small_disk(place: Path, size_bytes: int = _DISK_BYTES) -> Iterator[Path]:
    """A file system of its own, in memory, mounted at a new directory."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


class _Worker:
    """A client that publishes, and a durable subscription that acks all it is handed."""

    def __init__(self, client: tidings.Client, subscription: tidings.Subscription) -> None:
        self.client = client
        self.confirmed: dict[int, bytes] = {}
        self.handled: set[int] = set()
        self.acking = True
        self._subscription = subscription

    async def read(self) -> None:
        async for message in self._subscription:
            await message.ack()
            self.handled.add(message.sequence)

    async def publish(self) -> None:
        payload = b"%d " % len(self.confirmed) + _PAYLOAD
        confirm = await self.client.publish(_QUEUE, "made", payload)
        self.confirmed[confirm.sequence] = payload

    async def publish_until_refused(self, kind: type[TidingsError]) -> TidingsError:
        """Publishes until an error of a kind comes, and returns it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    await self.publish()
                except kind as error:
                    return error

    async def publish_once_possible(self) -> None:
        """Publishes until it works again."""

        async def published() -> bool:
            try:
                await self.publish()
            except (DiskFull, StoreUnavailable):
                return False
            return True

        await eventually(published, what="publishing works again")

    async def handles_all(self) -> None:
        """Returns once everything confirmed was handled."""
        await eventually(lambda: self.confirmed.keys() <= self.handled, what="all confirmed messages are handed over")

    async def acks_are_stored(self) -> None:
        """Returns once the server says that nothing is left for the subscription."""

        async def none_left() -> bool:
            return all(info.lag == 0 for info in await self.client.subscriptions())

        await eventually(none_left, what="acks are taken")


@asynccontextmanager
async def _working(server: Server) -> AsyncIterator[_Worker]:
    async with tidings.connect(server.url, client_id="worker") as client, client.subscribe(_QUEUE) as subscription:
        worker = _Worker(client, subscription)
        reading = asyncio.create_task(worker.read())
        try:
            yield worker
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def _nothing_is_lost(server: Server, worker: _Worker) -> None:
    """Compares after a `kill -9` and a new start."""
    server.kill()
    server.start()
    stored = await stored_messages(server, _QUEUE)
    lost = [sequence for sequence, payload in worker.confirmed.items() if stored.get(sequence) != payload]  # type: ignore[comparison-overlap]
    assert not lost, f"confirmed and not stored: {lost[:5]}"
    code, output, errors = await _check(server)
    assert code == 0, output + errors


async def _check(server: Server) -> tuple[int, str, str]:
    assert server.terminate() == 0, server.log.read_text()
    return await run_command("check", server.data_file, directory=server.log.parent)


async def disk_fills_up_to_the_reserve(place: Path, *, program: Sequence[str | Path] = TIDINGS) -> None:
    """Another program takes the reserve, then everything, then gives all back: acks go on all the time."""
    ballast = place / "ballast"
    with Server(place, program=program) as server:
        async with _working(server) as worker:
            await worker.publish()
            _fill(ballast, leave_bytes=limits.DISK_RESERVE_BYTES - 1)
            refused = await worker.publish_until_refused(DiskFull)
            assert f"below the reserve of {limits.DISK_RESERVE_BYTES} bytes; free some" in refused.text, refused.text
            await worker.handles_all()
            await worker.acks_are_stored()
            _fill(ballast, leave_bytes=0)
            before = len(worker.confirmed)
            await worker.publish_until_refused(DiskFull)
            assert len(worker.confirmed) == before, "something was confirmed below the reserve"
            ballast.unlink()
            await worker.publish_once_possible()
            await worker.handles_all()
            await worker.acks_are_stored()
        await _nothing_is_lost(server, worker)


async def disk_fills_up_wholly(place: Path, *, alterations: Sequence[str] = ()) -> None:
    """As if the disk filled faster than it is looked at: a server without a reserve writes until nothing goes."""
    ballast = place / "ballast"
    with Server(place, program=altered("no_reserve", *alterations)) as server:
        async with _working(server) as worker:
            await worker.publish()
            _fill(ballast, leave_bytes=4 * 1024 * 1024)
            refused = await worker.publish_until_refused(DiskFull)
            assert "no space left; nothing was stored, free some space" in refused.text, refused.text
            await worker.handles_all()
            ballast.unlink()
            await worker.publish_once_possible()
            await worker.handles_all()
            await worker.acks_are_stored()
        await _nothing_is_lost(server, worker)


def _fill(ballast: Path, *, leave_bytes: int) -> None:
    with ballast.open("ab", buffering=0) as file:
        free_bytes = shutil.disk_usage(ballast.parent).free
        try:
            file.write(bytes(max(0, free_bytes - leave_bytes)))
        except OSError:
            pass  # the server took the last of it


async def files_may_not_grow(directory: Path, *, program: Sequence[str | Path] = TIDINGS) -> None:
    """The system refuses every write that would make a file longer; then it allows them again."""
    with Server(directory, program=program) as server:
        async with _working(server) as worker:
            await worker.publish()
            with _limited(server.process.pid, resource.RLIMIT_FSIZE, 2_000_000):
                refused = await worker.publish_until_refused(StoreUnavailable)
                assert "nothing was stored" in refused.text, refused.text
                assert len(worker.confirmed) > 5, "the limit came too early"
                await worker.handles_all()
            await worker.publish_once_possible()
            await worker.handles_all()
            await worker.acks_are_stored()
        await _nothing_is_lost(server, worker)


async def disk_becomes_read_only(directory: Path, *, program: Sequence[str | Path] = TIDINGS) -> None:
    """Every write fails as on a file system that was mounted read-only in the middle; then it works again."""
    with Server(directory, program=program) as server:
        async with _working(server) as worker:
            await worker.publish()
            calls = "pwrite64,ftruncate,fsync,fdatasync"
            strace = ["strace", "-f", "-q", "-o", "/dev/null", "-e", f"trace={calls}"]
            strace += ["-e", f"inject={calls}:error=EROFS", "-p", str(server.process.pid)]
            with subprocess.Popen(strace, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
                try:
                    refused = await worker.publish_until_refused(StoreUnavailable)
                    assert "nothing was stored" in refused.text, refused.text
                    await worker.handles_all()
                finally:
                    tracer.terminate()
            await worker.publish_once_possible()
            await worker.handles_all()
            await worker.acks_are_stored()
        await _nothing_is_lost(server, worker)


async def disk_is_read_only_at_the_start(place: Path) -> None:
    """A data file on a disk that takes no writes: the server says so and ends."""
    with Server(place) as server:
        async with tidings.connect(server.url) as client:
            await client.publish(_QUEUE, "made", 1)
        assert server.terminate() == 0
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    code, _, errors = await run_command(
        "serve", "--store", f"sqlite:{server.data_file}", "--listen", "tidings://127.0.0.1:0", directory=place
    )
    assert code == 1, errors
    assert "Traceback" not in errors, errors
    assert f"{server.data_file} cannot be written" in errors, errors


async def descriptors_run_out(directory: Path, *, program: Sequence[str | Path] = TIDINGS) -> None:
    """More connections come than the server may have: those that it has go on, and new ones come in afterwards."""
    with Server(directory, program=program) as server:
        async with _working(server) as worker:
            await worker.publish()
            held = _descriptors(server)
            with _limited(server.process.pid, resource.RLIMIT_NOFILE, held + 20):
                strangers = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(100)]
                await eventually(lambda: _descriptors(server) >= held + 18, what="descriptors run out")
                for _ in range(20):
                    await worker.publish()
                await worker.handles_all()
                assert _descriptors(server) < held + 21, "the limit was not reached"
                for _, writer in strangers:
                    writer.close()
                async with asyncio.timeout(DEADLINE_S), tidings.connect(server.url) as client:
                    assert await client.publish(_QUEUE, "other", b"")
            await worker.acks_are_stored()
        await _nothing_is_lost(server, worker)


def _descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@contextmanager
def _limited(pid: int, kind: int, soft: int) -> Iterator[None]:
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)
