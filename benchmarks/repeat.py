"""Runs a measurement as often as asked, each in a directory of its own, and prints medians."""

import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks import machine


def repeat(run: Callable[[Path, Namespace], dict[str, float]], chosen: Namespace) -> None:
    """Prints what each run measured, and at last median, minimum and maximum of each figure.

    Args:
        run: measures once, with its data in that directory; returns figures by name.
        chosen: has `runs` and `directory`, beside what the run looks at.
    """
    print(machine.describe(chosen.directory.resolve()))
    runs = []
    for _ in range(chosen.runs):
        with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=chosen.directory) as name:
            runs.append(run(Path(name).resolve(), chosen))
            print(", ".join(f"{what} {value:,.2f}" for what, value in runs[-1].items()), flush=True)
    for what in runs[0]:
        values = [figures[what] for figures in runs]
        print(f"{what}: median {median(values):,.2f}, {min(values):,.2f} to {max(values):,.2f}")
