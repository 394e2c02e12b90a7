"""Draws medians as horizontal bars, one panel for each workload, as SVG."""

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from benchmarks.results import Results

WIDTH = 860
LEFT = 290
BAR_WIDTH = 430
ROW = 22
OURS, SYNCING, OTHER = "#1f6f8b", "#7fb3c8", "#d5d5d5"


class Panel(NamedTuple):
    """What one panel shows."""

    workload: str
    figure: str
    title: str
    digits: int


PANELS = (
    Panel("end_to_end", "acked_per_s", "publish to ack, end to end, 128 bytes: messages/s", 0),
    Panel("confirms", "confirmed_per_s_1", "1 publisher awaiting each confirm: messages/s", 0),
    Panel("confirms", "confirmed_per_s_100", "100 publishers awaiting each confirm: messages/s", 0),
    Panel("catch_up", "taken_per_s", "catch-up: messages/s", 0),
    Panel("fan_out", "deliveries_per_s", "fan-out to 100 subscriptions: deliveries/s", 0),
    Panel("latency", "p99_ms", "latency at 1,000 messages/s, p99: ms (shorter is better)", 2),
)


def draw(results: Results) -> str:
    """Returns the plot."""
    shapes: list[str] = []
    top = 58
    for panel in PANELS:
        values = {
            peer: value
            for peer in results.measured(panel.workload)
            if (value := results.value(panel.workload, peer, panel.figure)) is not None
        }
        if values:
            shapes.append(_text(16, top, panel.title, weight="bold"))
            shapes += _bars(results, values, top + 10, panel.digits)
            top += 10 + ROW * len(values) + 34
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
        f' font-family="sans-serif" font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join([*_legend(), *shapes])
        + "\n</svg>\n"
    )


def _legend() -> Iterator[str]:
    x = 16
    for color, what in (
        (OURS, "Tidings, fsync before each confirm"),
        (SYNCING, "others that sync before each confirm"),
        (OTHER, "no sync before a confirm"),
    ):
        yield f'<rect x="{x}" y="12" width="13" height="13" fill="{color}"/>'
        yield _text(x + 19, 23, what)
        x += 40 + 7 * len(what)


def _bars(results: Results, values: dict[str, float], top: int, digits: int) -> Iterator[str]:
    longest = max(values.values())
    for number, (peer, value) in enumerate(values.items()):
        y = top + ROW * number
        color = OURS if peer.startswith("tidings") else SYNCING if results.peers[peer]["syncs"] else OTHER
        width = max(1.0, value / longest * BAR_WIDTH)
        yield _text(LEFT - 8, y + 15, results.peers[peer]["title"], anchor="end")
        yield f'<rect x="{LEFT}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}" fill="{color}"/>'
        yield _text(LEFT + width + 6, y + 15, f"{value:,.{digits}f}")


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
