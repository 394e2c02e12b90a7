"""Finds out what of a peer is installed, and in which version."""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version


def missing(packages: Sequence[str], programs: Sequence[str | None]) -> str:
    """Returns what is not there, in words; "" if all is."""
    lacking = [f"Python package {name}" for name in packages if importlib.util.find_spec(name) is None]
    lacking += [f"program {name}" for name in programs if name is None or shutil.which(name) is None]
    return " and ".join(lacking)


def package_version(distribution: str) -> str:
    """Returns a package's name and version."""
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


def program_output(*command: str) -> str:
    """Returns the first line that a program prints about itself; "" if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else ""
