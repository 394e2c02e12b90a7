"""A process of a workload: the publisher, the subscriber, or whatever else the workload has.

    python -m benchmarks.part WORKLOAD PART PEER ADDRESS OPTIONS

Started by a run; it calls the function PART of the workload's module. It says `attached` and `ready` on its
standard output, waits there for the word to go, and ends with its figures as JSON.
"""

import asyncio
import importlib
import json
import sys
import time
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.peers import PEERS, Connection


class Part:
    """What a part of a workload is given.

    Args:
        peer: the name of the peer that is measured.
        address: where its server listens.
    """

    def __init__(self, peer: str, address: str) -> None:
        self._peer = PEERS[peer]
        self.address = address
        self.start_processor_s = 0.0

    def connect(self, client_id: str) -> AbstractAsyncContextManager[Connection]:
        """Connects a client to the peer's server."""
        return self._peer.connect(self.address, client_id)

    def attached(self) -> None:
        """Says that the subscription is attached; its processor time counts from now on."""
        self.say("attached")
        self.start_processor_s = time.process_time()

    async def ready(self) -> None:
        """Says that all is prepared, and waits for the word to go."""
        self.say("ready")
        await self.told()
        self.start_processor_s = time.process_time()

    async def told(self) -> Any:
        """Returns what the run tells next."""
        return json.loads(await asyncio.to_thread(sys.stdin.readline))

    def say(self, word: str) -> None:
        """Tells the run something."""
        print(word, flush=True)


async def _play(module: str, function: str, part: Part, options: dict[str, Any]) -> dict[str, Any]:
    work = getattr(importlib.import_module(module), function)
    figures: dict[str, Any] = await work(part, **options)
    return {**figures, "processor_s": time.process_time() - part.start_processor_s}


def main() -> None:
    workload, function, peer, address, options = sys.argv[1:]
    work = _play(f"benchmarks.workloads.{workload}", function, Part(peer, address), json.loads(options))
    try:
        import uvloop
    except ImportError:
        figures = asyncio.run(work)
    else:
        figures = uvloop.run(work)
    print("figures", json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
