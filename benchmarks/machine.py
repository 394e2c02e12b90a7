"""What a benchmark ran on: processor, Python, SQLite and the file system of a directory."""

import os
import platform
import sqlite3
import sys
from pathlib import Path


def describe(directory: Path) -> str:
    """Returns the machine in one line; the file system is that of `directory`."""
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()},"
        f" {platform.python_implementation()} {platform.python_version()}, SQLite {sqlite3.sqlite_version},"
        f" {loop_name()}, {file_system(directory)}"
    )


def processor() -> str:
    """Returns the processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def file_system(directory: Path) -> str:
    """Returns the type of the file system that a directory is on; "unknown file system" where nobody tells."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return "unknown file system"
    found = (0, "unknown file system")
    for line in lines:
        # The fields after " - " begin with the type; the fifth field before is the place (man 5 proc).
        before, _, after = line.partition(" - ")
        place = before.split()[4]
        if directory.resolve().is_relative_to(place) and len(place) >= found[0]:
            found = (len(place), after.split()[0])
    return found[1]


def loop_name() -> str:
    """Returns which event loop the processes use."""
    try:
        import uvloop
    except ImportError:
        return "asyncio's loop"
    return f"uvloop {uvloop.__version__}"


def peak_bytes(process_id: int) -> int:
    """Returns the most memory that a living process has had; 0 where nobody tells."""
    return _status_bytes(process_id, "VmHWM:")


def resident_bytes(process_id: int) -> int:
    """Returns the memory that a living process has now; 0 where nobody tells."""
    return _status_bytes(process_id, "VmRSS:")


def _status_bytes(process_id: int, field: str) -> int:
    if sys.platform != "linux":
        return 0
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def processor_s(process_id: int) -> float:
    """Returns the processor time that a living process has used; 0 where nobody tells."""
    if sys.platform != "linux":
        return 0.0
    # After the name in brackets come state, parent and so on; the 14th and 15th field are the times (man 5 proc).
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
