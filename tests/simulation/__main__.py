"""`python -m tests.simulation`: runs seeds, and prints the history of one that breaks a promise."""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.run import Outcome, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--start", type=int, default=1, help="the first one (default 1)")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--keep-going", action="store_true", help="run all seeds although one fails")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the history")
    options = parser.parse_args()
    if options.seed is not None:
        return _report_one(run(options.seed), verbose=options.verbose)
    return _run_many(
        range(options.start, options.start + options.seeds), options.workers, keep_going=options.keep_going
    )


def _run_many(seeds: range, workers: int, *, keep_going: bool) -> int:
    began_s = time.perf_counter()
    faults: Counter[str] = Counter()
    virtual_s = 0.0
    published = handed = done = 0
    broken: list[int] = []
    with ProcessPoolExecutor(workers) as pool:
        for outcome in pool.map(run, seeds, chunksize=4):
            done += 1
            faults.update(outcome.faults)
            virtual_s += outcome.virtual_s
            published += outcome.published
            handed += outcome.handed
            if outcome.broken:
                broken.append(outcome.seed)
                if keep_going:
                    first = next(iter(outcome.broken))
                    print(
                        f"seed {outcome.seed}: {first}: {outcome.broken[first][0].strip().splitlines()[-1][:300]}",
                        flush=True,
                    )
                else:
                    pool.shutdown(cancel_futures=True)
                    return _report_one(outcome, verbose=True)
    real_s = time.perf_counter() - began_s
    print(
        f"{done} seeds, {seeds.start} to {seeds.start + done - 1}, in {real_s:.1f} s: {virtual_s:,.0f} virtual seconds"
    )
    print(f"{published:,} messages published, {handed:,} deliveries handed over")
    for fault, count in sorted(faults.items()):
        print(f"  {count:6,}  {fault}")
    if broken:
        print(f"broken: {broken}; python -m tests.simulation --seed {broken[0]} -v")
    return 1 if broken else 0


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
