"""Writes the tables and the plot of docs/benchmarks.md from a file of results."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.aims import aims
from benchmarks.plot import draw
from benchmarks.results import Results, Spread
from benchmarks.workloads import WORKLOADS

DOCUMENTS = Path(__file__).parent.parent / "docs"
PAGE = DOCUMENTS / "benchmarks.md"
PLOT = DOCUMENTS / "benchmarks.svg"
BEGIN, END = "<!-- results: written by python -m benchmarks --report -->", "<!-- end of results -->"


class Column(NamedTuple):
    """A column of a table. With `spread`, minimum and maximum stand beside the median."""

    heading: str
    figure: str
    digits: int = 0
    spread: bool = False


COLUMNS: dict[str, Sequence[Column]] = {
    "end_to_end": (
        Column("acked messages/s", "acked_per_s", spread=True),
        Column("confirmed messages/s", "confirmed_per_s"),
        Column("server, µs a message", "server_us", 2),
        Column("publisher, µs", "publisher_us", 2),
        Column("subscriber, µs", "subscriber_us", 2),
        Column("server's peak, MiB", "server_peak_mib"),
        Column("messages a run", "messages"),
    ),
    "sustained": (
        Column("acked MiB/s", "acked_mib_per_s", spread=True),
        Column("disk, MiB/s", "disk_mib_per_s"),
        Column("of the disk", "of_disk", 2),
        Column("longest stall of the publisher, ms", "publisher_stall_ms", spread=True),
        Column("of the subscriber, ms", "subscriber_stall_ms", spread=True),
        Column("published MiB", "published_mib"),
    ),
    "confirms": (
        Column("1 publisher, confirms/s", "confirmed_per_s_1", spread=True),
        Column("median, ms", "median_ms_1", 2),
        Column("syncs a message", "syncs_1", 3),
        Column("100 publishers, confirms/s", "confirmed_per_s_100", spread=True),
        Column("median, ms", "median_ms_100", 2),
        Column("syncs a message", "syncs_100", 3),
    ),
    "catch_up": (
        Column("messages/s", "taken_per_s", spread=True),
        Column("server, µs a message", "server_us", 2),
        Column("subscriber, µs", "subscriber_us", 2),
        Column("messages that waited", "messages"),
    ),
    "fan_out": (
        Column("deliveries/s", "deliveries_per_s", spread=True),
        Column("server, µs a delivery", "server_us", 2),
        Column("subscribers, µs", "subscriber_us", 2),
        Column("messages a run", "messages"),
    ),
    "latency": (
        Column("p50, ms", "p50_ms", 2, spread=True),
        Column("p99, ms", "p99_ms", 2, spread=True),
        Column("p99.9, ms", "p999_ms", 2),
        Column("max, ms", "max_ms", 2),
        Column("messages a run", "messages"),
    ),
    "mixed_day": (
        Column("seconds", "seconds"),
        Column("published messages/s", "published_per_s"),
        Column("deliveries/s", "deliveries_per_s"),
        Column("lost", "lost"),
        Column("duplicates", "duplicates"),
        Column("p50, ms", "p50_ms", 2),
        Column("p99, ms", "p99_ms", 2),
        Column("max, ms", "max_ms", 2),
        Column("server's memory after a third, MiB", "memory_early_mib"),
        Column("at the end, MiB", "memory_end_mib"),
    ),
}


def write_report(document: dict[str, Any]) -> None:
    """Writes the part of the page between its markers, and the plot."""
    results = Results(document)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE} has no markers {BEGIN} and {END} between which the results go")
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(_lines(results)) + f"\n\n{END}{after}")
    PLOT.write_text(draw(results))


def _lines(results: Results) -> Iterator[str]:
    document = results.document
    yield f"Machine: {document['machine']}. Command: `{document['command']}`, {document['started'][:10]}."
    if document["quick"]:
        yield "**A quick run, on a machine with other work: it shows that everything runs, not how fast it is.**"
    for name, what in document["skipped"].items():
        yield f"Skipped: {name}, for want of {what}."
    yield "\n![Medians of all workloads](benchmarks.svg)"
    yield "\n### What was aimed at\n"
    yield from _table(
        ("aim", "measured", ""), [(a.text, a.measured, "met" if a.met else "**not met**") for a in aims(results)]
    )
    for workload, module in WORKLOADS.items():
        if peers := results.measured(workload):
            yield f"\n### {module.TITLE}\n"
            yield from _workload(results, workload, peers)
    yield "\n### Who was measured, and what a confirm of each means\n"
    rows = [(peer["title"], peer["durability"], peer["version"]) for peer in results.peers.values()]
    yield from _table(("", "when a publish is confirmed, it is", "version"), rows)
    if failures := results.failures():
        yield "\n### Runs that failed\n"
        yield from (f"- {failure}" for failure in failures)


def _workload(results: Results, workload: str, peers: list[str]) -> Iterator[str]:
    columns = COLUMNS[workload]
    rows = []
    for peer in peers:
        title, syncs = results.peers[peer]["title"], results.peers[peer]["syncs"]
        found = [_cell(results.figure(workload, peer, column.figure), column) for column in columns]
        rows.append((title, "yes" if syncs else "no", *found))
    yield from _table(("", "syncs before a confirm", *(column.heading for column in columns)), rows)


def _cell(spread: Spread | None, column: Column) -> str:
    if spread is None:
        return ""
    said = f"{spread.median:,.{column.digits}f}"
    if column.spread and spread.runs > 1:
        said += f" ({spread.minimum:,.{column.digits}f} to {spread.maximum:,.{column.digits}f})"
    return said


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(headings) + " |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
