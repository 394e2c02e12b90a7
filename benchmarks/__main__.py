"""The command line of the benchmarks: chooses workloads, peers and sizes, runs them in turns, keeps the results.

python -m benchmarks [--workload NAME]... [--peer NAME]... [--runs N] [--quick] [--full]
python -m benchmarks --report FILE      # writes tables and plot of docs/benchmarks.md again
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.peers import PEERS, Peer
from benchmarks.processes import Failed
from benchmarks.report import write_report
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.run import Run

QUICK_SCALE = 0.1
SUSTAINED_BYTES = 1024**3
SUSTAINED_BYTES_FULL = 4 * 1024**3
ONCE = "mixed_day"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Tidings beside other queues")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="only this one; repeatable")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this one; repeatable")
    parser.add_argument("--runs", type=int, default=3, help="runs of each workload with each peer")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to see whether it works")
    parser.add_argument("--full", action="store_true", help="4 GiB in the sustained workload instead of 1 GiB")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the mixed day")
    parser.add_argument("--limit", type=float, default=25.0, help="minutes after which no further round begins")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the data goes: a disk, not memory")
    parser.add_argument("--output", type=Path, default=Path("benchmarks.json"), help="where the results go")
    parser.add_argument("--report", type=Path, metavar="FILE", help="run nothing; write the page from these results")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    if chosen.report:
        write_report(json.loads(chosen.report.read_text()))
        return
    # Asked to end, it ends what it has started, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=chosen.directory) as name:
        place = Path(name).resolve()
        if machine.file_system(place) in ("tmpfs", "ramfs"):
            raise SystemExit(f"{place} is in memory, where fsync means nothing; name a disk with --directory")
        run_all(chosen, place)


def run_all(chosen: argparse.Namespace, place: Path) -> None:
    """Runs rounds of all workloads and peers; keeps the results after each run."""
    peers = present(chosen.peer or list(PEERS))
    document: dict[str, Any] = {
        "machine": machine.describe(place),
        "command": command(sys.argv[1:]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": chosen.quick,
        "peers": {name: describe(peer) for name, peer in peers.items()},
        "skipped": {name: PEERS[name].missing() for name in chosen.peer or PEERS if name not in peers},
        "results": [],
    }
    print(document["machine"])
    for name, what in document["skipped"].items():
        print(f"skipped: {name}, for want of {what}")
    start_s = time.monotonic()
    for number, workloads in rounds(chosen, start_s):
        for workload in workloads:
            module = WORKLOADS[workload]
            print(f"\n{module.TITLE}, run {number}", flush=True)
            for name in module.PEERS:
                if name in peers:
                    result = {"workload": workload, "peer": name, "run": number}
                    result |= run_one(chosen, workload, peers[name], number, place)
                    document["results"].append(result)
                    chosen.output.write_text(json.dumps(document, indent=1) + "\n")
                    print_result(result, time.monotonic() - start_s)
    print(f"\nresults: {chosen.output}; python -m benchmarks --report {chosen.output} writes them into the page")


def rounds(chosen: argparse.Namespace, start_s: float) -> Iterator[tuple[int, list[str]]]:
    """Yields what to run together: rounds of all workloads, so that a disk whose speed changes does so for all.

    A round that would not end before the time limit is left out, and the one that is long is run once, at the end.
    """
    workloads = chosen.workload or list(WORKLOADS)
    repeated = [workload for workload in workloads if workload != ONCE]
    once = [workload for workload in workloads if workload == ONCE]
    reserve_s = chosen.minutes * 60 if once else 0.0
    round_s = 0.0
    for number in range(1, chosen.runs + 1 if repeated else 1):
        round_start_s = time.monotonic()
        if round_start_s - start_s + round_s + reserve_s > chosen.limit * 60:
            print(f"\nno time for run {number} within {chosen.limit:g} minutes; --limit allows more")
            break
        yield number, repeated
        round_s = time.monotonic() - round_start_s
    if once:
        yield 1, once


def command(arguments: list[str]) -> str:
    """Returns how to run the same again, without the places of this machine."""
    kept = []
    words = iter(arguments)
    for word in words:
        if word in ("--output", "--directory"):
            next(words, None)
        elif not word.startswith(("--output=", "--directory=")):
            kept.append(word)
    return " ".join(["python", "-m", "benchmarks", *kept])


def present(names: list[str]) -> dict[str, Peer]:
    """Returns those peers of which everything is installed."""
    return {name: PEERS[name] for name in names if not PEERS[name].missing()}


def describe(peer: Peer) -> dict[str, Any]:
    """Returns what the page says about a peer."""
    return {"title": peer.title, "durability": peer.durability, "syncs": peer.syncs, "version": peer.version()}


def run_one(chosen: argparse.Namespace, workload: str, peer: Peer, number: int, place: Path) -> dict[str, Any]:
    """Runs a workload once; one that fails is reported and does not stop the others."""
    # What a killed server leaves behind may be half written, so nothing here insists on removing it.
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as name:
        run = Run(
            workload=workload,
            peer=peer,
            number=number,
            directory=Path(name),
            scale=QUICK_SCALE if chosen.quick else 1.0,
            sustained_bytes=SUSTAINED_BYTES_FULL if chosen.full else SUSTAINED_BYTES,
            day_s=chosen.minutes * 60,
        )
        try:
            return {"figures": WORKLOADS[workload].measure(run)}
        except (Failed, OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
            return {"error": f"{type(error).__name__}: {error}"}


def print_result(result: dict[str, Any], since_start_s: float) -> None:
    """Prints what came of a run, in one line."""
    if "error" in result:
        said = f"failed: {result['error']}"
    else:
        said = "  ".join(f"{name} {_number(value)}" for name, value in result["figures"].items())
    print(f"{since_start_s:6.0f} s  {result['peer']:15}  {said}", flush=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
