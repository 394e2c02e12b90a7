"""What verbs print: JSON lines for programs, tables and relative times for people."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidings.gateways.messages import iso_time

if TYPE_CHECKING:
    from rich.console import Console

_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
_SIZES: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def relative_time(time_ms: int | None, now_ms: int) -> str:
    """Returns how long ago a time was, as "5 min ago"; None is "never", the last second and the future "now"."""
    if time_ms is None:
        return "never"
    for unit_ms, unit in _UNITS:
        if now_ms - time_ms >= unit_ms:
            return f"{(now_ms - time_ms) // unit_ms} {unit} ago"
    return "now"


def time_until(time_ms: int, now_ms: int) -> str:
    """Returns how far ahead a time is, as "in 5 min"; "now" within a second, and when it is past."""
    for unit_ms, unit in _UNITS:
        if time_ms - now_ms >= unit_ms:
            return f"in {(time_ms - now_ms) // unit_ms} {unit}"
    return "now"


def readable_size(size_bytes: int) -> str:
    """Returns a size as "512 B" or "1.5 MiB"."""
    for unit_bytes, unit in _SIZES:
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes} B"


def count(number: int, noun: str) -> str:
    """Returns a number with its noun, as "1 queue" or "2,000 queues"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Returns a text that stays on its line and cannot steer a terminal: other characters as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def printable_lines(text: str) -> str:
    """Returns a text of several lines that cannot steer a terminal."""
    return "\n".join(map(printable, text.splitlines()))


def to_json(value: object) -> bytes:
    """Returns one line of JSON without its end."""
    return msgspec.json.encode(value)


def as_entry(info: msgspec.Struct, *, times: Sequence[str] = ()) -> dict[str, Any]:
    """Returns a listing's entry as JSON shows it: the fields named in `times` as ISO 8601, None as null."""
    entry: dict[str, Any] = msgspec.structs.asdict(info)
    for name in times:
        if entry[name] is not None:
            entry[name] = iso_time(entry[name])
    return entry


def print_json(value: object) -> None:
    """Prints one JSON object on one line of standard output."""
    print_entries([value])


def print_entries(entries: Iterable[object]) -> None:
    """Prints one JSON object per line, in UTF-8 whatever the terminal's encoding."""
    sys.stdout.flush()
    for entry in entries:
        sys.stdout.buffer.write(to_json(entry) + b"\n")
    sys.stdout.buffer.flush()


def console(*, width: int | None = None) -> "Console":
    """Returns a console on standard output that leaves a closed pipe to its caller."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process here, with another exit code

    return PlainConsole(width=width, highlight=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | int]], *, empty: str) -> None:
    """Prints a table, or the sentence `empty` when it has no rows. Numbers are set to the right."""
    if not rows:
        print(empty)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        # Text, not str: a name may hold brackets, which rich would read as markup.
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else printable(cell)) for cell in row))
    # In a pipe nothing is cut or wrapped: grep and awk want whole lines.
    console(width=None if sys.stdout.isatty() else 100_000).print(table)
    sys.stdout.flush()
