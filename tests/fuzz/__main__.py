"""`make fuzz`: coverage-guided fuzzing of every target with atheris, each in a process of its own, in turns.

A crash is an exception that is not documented, a hang an input that takes too long, growth a process that gets
larger than its bound. Each leaves its input in `.fuzz/findings/`, and prints the line for `regressions.txt` that makes
`make test` replay it.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

_HANG_S: Final = 20
_RESIDENT_MIB_MAX: Final = 1024
_GROWTH_MIB_MAX: Final = 64
"""Growth of a process from a quarter of its time on: by then it has seen what it keeps, its corpus included."""
_WARM: Final = 0.25
_HERE: Final = Path(__file__).parent
# Minutes are given by weight: a conversation takes a thousand times as long as a frame.
_WEIGHTS: Final = {"conversation": 5, "data_file": 3, "frames": 2, "batch": 2, "records": 2}


def main() -> int:
    """Fuzzes; returns 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together (default 5)")
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="where inputs worth keeping are kept")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.worker, options.corpus / options.worker, options.minutes * 60)
        return 0
    from tests.fuzz.targets import TARGETS

    names = options.target or list(TARGETS)
    weights = sum(_WEIGHTS.get(name, 1) for name in names)
    found = 0
    for name in names:
        minutes = options.minutes * _WEIGHTS.get(name, 1) / weights
        found += _run(name, options.corpus, minutes)
    print(f"{found} findings" if found else "no crash, no hang, no growth", flush=True)
    return 1 if found else 0


def _run(name: str, corpus: Path, minutes: float) -> int:
    command = [sys.executable, "-m", "tests.fuzz", "--worker", name, "--corpus", corpus, "--minutes", str(minutes)]
    # What a worker says goes to a file: a pipe that nobody reads would stop it.
    (corpus / name).mkdir(parents=True, exist_ok=True)
    with (corpus / f"{name}.log").open("w", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    said = (corpus / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
    measured = next((line for line in reversed(said) if line.startswith(f"{name}: ")), f"{name}: ended with {code}")
    covered = next((found for line in reversed(said) if (found := re.search(r"cov: (\d+) ft: (\d+)", line))), None)
    print(measured + (f", {covered[1]} edges and {covered[2]} features covered" if covered else ""))
    if code:
        print("\n".join(said[-40:]), flush=True)
    sys.stdout.flush()
    return int(code != 0)


def _work(name: str, corpus: Path, seconds: float) -> None:
    import atheris

    # What is imported inside is instrumented; the standard library and hypothesis need not be.
    with atheris.instrument_imports(include=["tidings"]):
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.corpus import seeds

    for index, seed in enumerate(seeds(name)):
        (corpus / f"seed-{index}").write_bytes(seed)
    findings = corpus.parent / "findings"
    findings.mkdir(exist_ok=True)
    measured = _Measured(name, TARGETS[name], seconds)
    atheris.Setup(
        [
            name,
            str(corpus),
            f"-max_total_time={max(1, round(seconds))}",
            f"-timeout={_HANG_S}",
            f"-rss_limit_mb={_RESIDENT_MIB_MAX}",
            "-max_len=8192",
            "-print_final_stats=1",
            f"-artifact_prefix={findings}/{name}-",
        ],
        measured,
    )
    atheris.Fuzz()


class _Measured:
    """A target that looks at the memory of its process meanwhile."""

    def __init__(self, name: str, target: object, seconds: float) -> None:
        self._name = name
        self._target = target
        self._began_s = time.monotonic()
        self._seconds = seconds
        self._executions = 0
        self._start_mib = self._warm_mib = 0.0
        self._said_s = 0.0

    def __call__(self, data: bytes) -> None:
        try:
            self._target(data)  # type: ignore[operator]
        except BaseException:
            print(f"regressions.txt: {self._name} {data.hex() or '-'}", flush=True)
            raise
        self._executions += 1
        now_s = time.monotonic() - self._began_s
        if now_s - self._said_s >= min(5.0, self._seconds / 10):
            self._said_s = now_s
            self._look(now_s)

    def _look(self, now_s: float) -> None:
        resident_mib = _resident_mib()
        self._start_mib = self._start_mib or resident_mib
        if now_s >= self._seconds * _WARM:
            self._warm_mib = self._warm_mib or resident_mib
            growth_mib = resident_mib - self._warm_mib
            assert growth_mib <= _GROWTH_MIB_MAX, f"the process grew by {growth_mib:.0f} MiB"
        print(
            f"{self._name}: {self._executions:,} executions in {now_s:.0f} s, resident memory {self._start_mib:.0f} MiB"
            f" at the start, {self._warm_mib:.0f} MiB warm, {resident_mib:.0f} MiB at the end",
            flush=True,
        )


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


if __name__ == "__main__":
    sys.exit(main())
