"""`python -m tests.simulation`: runs seeds; of one that breaks a promise it prints the shrunk scenario and history."""

import argparse
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice, takewhile
from pathlib import Path

import msgspec

from tests.simulation.run import Outcome, run, run_scenario
from tests.simulation.scenario import FAULTS, Scenario
from tests.simulation.shrink import shrink
from tests.simulation.work import make

_AHEAD = 4  # seeds given to each worker before results are looked at
_INVARIANTS_EVERY = 4  # of so many seeds one is run with the broker's invariants, which take a third of its time


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000, help="how many (default 20,000)")
    parser.add_argument("--minutes", type=float, help="as many as fit into this time, instead")
    parser.add_argument("--start", type=int, default=1, help="the first one (default 1)")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--group", help='with --seed: with faults of this group only, or of "one + other"')
    parser.add_argument(
        "--plain", action="store_true", help="with --seed: its scenario with publishing and acking only"
    )
    parser.add_argument("--scenario", type=Path, help="the scenario in this file only")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--keep-going", action="store_true", help="run all seeds although one fails")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the history")
    options = parser.parse_args()
    if options.seed is not None:
        return _report_one(run(options.seed, options.group, plain=options.plain), verbose=options.verbose)
    if options.scenario is not None:
        scenario = msgspec.json.decode(options.scenario.read_bytes(), type=Scenario)
        return _report_one(run_scenario(scenario), verbose=True)
    seeds: Iterable[int] = range(options.start, options.start + options.seeds)
    if options.minutes is not None:
        ends_at = time.monotonic() + 60 * options.minutes
        seeds = takewhile(lambda _: time.monotonic() < ends_at, count(options.start))
    return _run_many(seeds, options.workers, keep_going=options.keep_going)


def _run_many(seeds: Iterable[int], workers: int, *, keep_going: bool) -> int:
    began_s = time.perf_counter()
    faults: Counter[str] = Counter()
    virtual_s = 0.0
    published = handed = done = 0
    broken: list[int] = []
    remaining = iter(seeds)
    with ProcessPoolExecutor(workers) as pool:
        running = deque(pool.submit(_run_one_of_many, seed) for seed in islice(remaining, workers * _AHEAD))
        while running:
            outcome = running.popleft().result()
            if keep_going or not broken:
                running.extend(pool.submit(_run_one_of_many, seed) for seed in islice(remaining, 1))
            done += 1
            faults.update(outcome.faults)
            virtual_s += outcome.virtual_s
            published += outcome.published
            handed += outcome.handed
            if outcome.broken:
                broken.append(outcome.seed)
                first = next(iter(outcome.broken))
                said = outcome.broken[first][0].strip().splitlines()[-1][:300]
                print(f"seed {outcome.seed}: {first}: {said}", flush=True)
    _report_faults(faults)
    real_s = time.perf_counter() - began_s
    print(f"{published:,} messages published, {handed:,} deliveries handed over")
    print(f"{done:,} seeds in {real_s:,.1f} s: {virtual_s:,.0f} virtual seconds, {virtual_s / real_s:,.0f} a second")
    if broken:
        _report_shrunk(broken[0])
        print(f"broken: {broken}")
    return 1 if broken else 0


def _run_one_of_many(seed: int) -> Outcome:
    return run(seed, invariants=seed % _INVARIANTS_EVERY == 0, spelled=False)


def _report_faults(faults: Counter[str]) -> None:
    for group, kinds in FAULTS.items():
        print(f"{group}: {', '.join(f'{kind} {faults.pop(kind, 0):,}' for kind in kinds)}")
    print(f"besides: {', '.join(f'{kind[1:-1]} {number:,}' for kind, number in sorted(faults.items()))}")


def _report_shrunk(seed: int) -> None:
    promise = next(iter(run(seed).broken))
    scenario = make(seed)
    print(f"shrinking seed {seed} ...", flush=True)
    small, outcome = shrink(scenario, promise)
    path = Path(tempfile.gettempdir()) / f"scenario-{seed}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(small)))
    _report_one(outcome, verbose=True)
    print(
        f"of seed {seed} are left {len(small.faults)} faults of {len(scenario.faults)}, {len(small.subscribers)}"
        f" subscribers of {len(scenario.subscribers)}, {len(small.publishers)} publishers of"
        f" {len(scenario.publishers)}; again: python -m tests.simulation --scenario {path}"
    )


def _report_one(outcome: Outcome, *, verbose: bool) -> int:
    if verbose:
        print("\n".join(outcome.history))
    print(f"seed {outcome.seed}: {outcome.virtual_s:.1f} virtual seconds in {outcome.real_s:.2f} s; {outcome.faults}")
    for promise, texts in outcome.broken.items():
        print(f"BROKEN: {promise}")
        for text in texts[:10]:
            print(f"  {text}")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
