"""The network: real publishers and subscribers speak to a real server through a proxy that breaks what it can."""

import random
from collections.abc import Sequence
from pathlib import Path

from tests.integration.processes import Server
from tests.soak.evidence import compare
from tests.soak.kills import Load
from tests.soak.proxy import Proxy

_CUTS = ("cut", "half cut", "reset")


async def run(directory: Path, *, cuts: int, seed: int, program: Sequence[str | Path] = ("-m", "tidings")) -> str:
    """Goes on until as many connections were cut; raises AssertionError with what was broken."""
    with Server(directory, program=program) as server:
        async with Proxy(server.port, random.Random(seed)) as proxy:
            load = Load(server, "load", directory, url=proxy.url)
            try:
                await load.begin()
                while sum(proxy.faults[kind] for kind in _CUTS) < cuts or len(proxy.faults) < 9:
                    await load.goes_on()
                proxy.calm = True
                evidence = await load.finish()
            finally:
                load.end()
        compare(evidence)
    faults = ", ".join(f"{count:,} {kind}" for kind, count in sorted(proxy.faults.items()))
    return f"{len(evidence.stored):,} messages, {evidence.duplicates_count:,} duplicates; chunks: {faults}"
