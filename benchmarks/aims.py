"""What the project set out to reach, and whether a file of results shows it."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.results import Results


class Aim(NamedTuple):
    """One aim: what it says, what was measured, and whether that is it."""

    text: str
    measured: str
    met: bool


def aims(results: Results) -> Iterator[Aim]:
    """Yields those aims for which there are figures."""
    for find in (_end_to_end, _sustained, _confirms, _catch_up, _fan_out, _latency, _mixed_day):
        yield from find(results)


def _at_least(results: Results, text: str, workload: str, peer: str, name: str, aim: float) -> Iterator[Aim]:
    value = results.value(workload, peer, name)
    if value is not None:
        yield Aim(text, f"{value:,.0f}", value >= aim)


def _at_most_ms(results: Results, text: str, workload: str, name: str, aim_ms: float) -> Iterator[Aim]:
    value = results.value(workload, "tidings", name)
    if value is not None:
        yield Aim(text, f"{value:.2f} ms", value <= aim_ms)


def _end_to_end(results: Results) -> Iterator[Aim]:
    figure = ("end_to_end", "tidings", "acked_per_s")
    yield from _at_least(results, "end to end, by message: 900,000 messages/s", *figure, 900_000)
    ours = results.value(*figure)
    best = results.best_syncing("end_to_end", "acked_per_s")
    floor = results.value("end_to_end", "floor", "acked_per_s")
    if ours and best:
        times = ours / best[1]
        text = "end to end: 10 times the best peer that syncs before each confirm"
        yield Aim(text, f"{times:.1f} times {results.peers[best[0]]['title']}", times >= 10)
    if ours and floor:
        yield Aim("end to end: 0.6 of the bare floor", f"{ours / floor:.2f}", ours / floor >= 0.6)


def _sustained(results: Results) -> Iterator[Aim]:
    share = results.value("sustained", "tidings", "of_disk")
    stalls = [results.figure("sustained", "tidings", f"{who}_stall_ms") for who in ("publisher", "subscriber")]
    if share is not None:
        yield Aim("sustained 1 KiB: 0.4 of the disk's append and fdatasync", f"{share:.2f}", share >= 0.4)
    if all(stalls):
        longest = max(stall.maximum for stall in stalls if stall)
        yield Aim("sustained 1 KiB: no stall over 100 ms", f"{longest:.0f} ms at most", longest <= 100)


def _confirms(results: Results) -> Iterator[Aim]:
    for count, publishers in ((1, "1 publisher"), (100, "100 publishers")):
        ours = results.value("confirms", "tidings", f"confirmed_per_s_{count}")
        best = results.best_syncing("confirms", f"confirmed_per_s_{count}")
        if ours and best:
            measured = f"{ours:,.0f}/s, {results.peers[best[0]]['title']} {best[1]:,.0f}/s"
            yield Aim(f"{publishers} awaiting each confirm: at least the best syncing peer", measured, ours >= best[1])


def _catch_up(results: Results) -> Iterator[Aim]:
    for peer, how, aim in (("tidings", "by message", 600_000), ("tidings-batches", "by batch", 1_500_000)):
        text = f"catch-up {how}: {aim:,} messages/s"
        yield from _at_least(results, text, "catch_up", peer, "taken_per_s", aim)


def _fan_out(results: Results) -> Iterator[Aim]:
    text = "fan-out to 100 subscriptions, by batch: 1,500,000 deliveries/s"
    yield from _at_least(results, text, "fan_out", "tidings-batches", "deliveries_per_s", 1_500_000)


def _latency(results: Results) -> Iterator[Aim]:
    yield from _at_most_ms(results, "latency p50 under 0.6 ms", "latency", "p50_ms", 0.6)
    yield from _at_most_ms(results, "latency p99 under 2 ms", "latency", "p99_ms", 2.0)
    for name, what in (("p50_ms", "p50"), ("p99_ms", "p99")):
        ours, theirs = (results.value("latency", peer, name) for peer in ("tidings", "nats-always"))
        if ours and theirs:
            measured = f"{ours:.2f} ms, NATS {theirs:.2f} ms"
            yield Aim(f"latency {what} not above NATS with sync_interval always", measured, ours <= theirs)


def _mixed_day(results: Results) -> Iterator[Aim]:
    lost = results.value("mixed_day", "tidings", "lost")
    early, end = (results.value("mixed_day", "tidings", f"memory_{when}_mib") for when in ("early", "end"))
    if lost is not None:
        yield Aim("mixed day: nothing lost", f"{lost:,.0f} lost", lost == 0)
    if early and end:
        measured = f"{early:.0f} MiB after a third, {end:.0f} MiB at the end"
        yield Aim(
            "mixed day: the server's memory grows by less than a tenth after its first third",
            measured,
            end <= early * 1.1,
        )
