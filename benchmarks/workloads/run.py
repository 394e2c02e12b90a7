"""One run of a workload with one peer: its size, its directory, its server and the processes around it."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from json import dumps
from pathlib import Path

from benchmarks import machine
from benchmarks.peers import Peer, Server
from benchmarks.processes import Process, started

TIMEOUT_S = 60.0
"""Time that a step of a run may take before the run counts as failed."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a workload with one peer.

    Args:
        workload: name of the workload's module.
        peer: the peer.
        number: which run of this workload with this peer it is, from 1.
        directory: an empty directory for the server's data, on a disk.
        scale: 1 for a whole run, less for a quick one.
        sustained_bytes: how much the sustained workload publishes.
        day_s: how long the mixed day is, in seconds.
    """

    workload: str
    peer: Peer
    number: int
    directory: Path
    scale: float
    sustained_bytes: int
    day_s: float

    def count(self, seconds: float, maximum: int) -> int:
        """Returns how many messages the peer takes in about so many seconds, at most `maximum`."""
        expected = self.peer.messages_per_second * seconds
        return max(1_000, int(min(maximum, expected) * self.scale))

    def serve(self) -> AbstractContextManager[Server]:
        """Starts the peer's server."""
        return self.peer.serve(self.directory)

    def part(self, function: str, server: Server, **options: object) -> AbstractContextManager[Process]:
        """Starts a process that plays a part of this workload."""
        command = (sys.executable, "-m", "benchmarks.part", self.workload, function, self.peer.name)
        return started((*command, server.address, dumps(options)), self.directory)


@contextmanager
def server_figures(server: Server, figures: dict[str, float], messages: int) -> Iterator[None]:
    """Adds to the figures what the server took for so many messages while the block ran."""
    before_s = machine.processor_s(server.process_id)
    yield
    took_s = machine.processor_s(server.process_id) - before_s
    figures["server_us"] = took_s * 1e6 / messages
    figures["server_peak_mib"] = machine.peak_bytes(server.process_id) / 2**20
