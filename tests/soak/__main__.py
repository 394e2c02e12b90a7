"""`make soak`: real processes under real faults, and what was promised compared at the end."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.soak import connections, kills, network, power_cuts, shortages

_POWER_CUT_BATCHES = 150
_CONNECTIONS = 5_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="of kills; the rest grows with it (default 100)")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="decides the faults")
    parser.add_argument("--only", help="one part: kills, network, power-cuts, shortages or connections")
    options = parser.parse_args()
    rounds, seed = options.rounds, options.seed
    parts: dict[str, Callable[[Path], Awaitable[object]]] = {
        "kills": lambda place: kills.run(place, rounds=rounds, seed=seed, say=_say),
        "network": lambda place: network.run(place, cuts=rounds, seed=seed),
        "power-cuts": lambda place: power_cuts.run(
            place, batches=_POWER_CUT_BATCHES, share=rounds / 2_000, servers=rounds // 10, seed=seed, lives=3
        ),
        "shortages": _shortages,
        "connections": lambda place: _connections(place, seed),
    }
    for name in [options.only] if options.only else list(parts):
        place = Path(tempfile.mkdtemp(prefix=f"tidings-soak-{name}-"))
        if name == "power-cuts" and not shutil.which("strace"):
            print(f"{name}: skipped, needs strace (Debian, Ubuntu: apt install strace)", flush=True)
            continue
        began_s = time.monotonic()
        try:
            said = asyncio.run(parts[name](place))  # type: ignore[arg-type]
        except Exception:
            traceback.print_exc()
            print(f"{name}: BROKEN; its files are in {place}")
            print(f"again: make soak ROUNDS={rounds} SEED={seed} ONLY={name}")
            return 1
        print(f"{name}: {said} ({time.monotonic() - began_s:.0f} s)", flush=True)
        shutil.rmtree(place)
    print(f"nothing broken, seed {seed}")
    return 0


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


async def _shortages(place: Path) -> str:
    done = []
    for scenario in (shortages.files_may_not_grow, shortages.disk_becomes_read_only, shortages.descriptors_run_out):
        if scenario is shortages.disk_becomes_read_only and not shutil.which("strace"):
            continue
        (place / scenario.__name__).mkdir()
        await scenario(place / scenario.__name__)
        done.append(scenario.__name__)
    if shortages.may_mount():
        for mounted in (
            shortages.disk_fills_up_to_the_reserve,
            shortages.disk_fills_up_wholly,
            shortages.disk_is_read_only_at_the_start,
        ):
            with shortages.small_disk(place / mounted.__name__) as disk:
                await mounted(disk)
            done.append(mounted.__name__)
    return ", ".join(name.replace("_", " ") for name in done)


async def _connections(place: Path, seed: int) -> str:
    for name in ("dropped", "kept"):
        (place / name).mkdir()
    said = await connections.run(place / "dropped", connections=_CONNECTIONS, waves=8, seed=seed)
    await connections.half_greetings_end(place / "kept", connections=500)
    return f"{said}; 500 that never finished their greeting were closed"


if __name__ == "__main__":
    sys.exit(main())
