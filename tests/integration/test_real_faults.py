"""Real faults, in short: what `make soak` does for minutes, each once, and each check seen to fail by a planted bug."""

import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.processes import Delivery
from tests.soak import connections, kills, network, power_cuts, shortages
from tests.soak.altered_server import altered
from tests.soak.evidence import Evidence, compare

needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
needs_mount = pytest.mark.skipif(not shortages.may_mount(), reason="may not mount a file system")

_SEED = 20261123


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with shortages.small_disk(tmp_path / "disk") as place:
        yield place


async def test_kills_and_stops_of_server_publishers_and_subscribers_lose_nothing(tmp_path: Path) -> None:
    report = await kills.run(tmp_path, rounds=1, seed=_SEED)
    assert report.faults["server kills"] == report.faults["publisher kills"] == report.faults["subscriber kills"] == 1


async def test_a_network_that_splits_merges_delays_and_cuts_loses_nothing(tmp_path: Path) -> None:
    await network.run(tmp_path, cuts=2, seed=_SEED)


@needs_strace
async def test_no_power_cut_loses_what_was_confirmed(tmp_path: Path) -> None:
    report = await power_cuts.run(tmp_path, batches=25, share=0.01, servers=1, seed=_SEED)
    assert report.images > 20
    assert report.servers == 1


@needs_strace
@pytest.mark.parametrize(
    ("plant", "count_fsyncs", "problem"),
    [
        ("synchronous_normal", True, "confirmed before an fsync covered it"),
        ("synchronous_normal", False, "confirmed and lost"),
    ],
)
async def test_a_missing_fsync_is_found(tmp_path: Path, plant: str, count_fsyncs: bool, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        await power_cuts.run(
            tmp_path,
            batches=20,
            share=0.1,
            servers=0,
            seed=_SEED,
            alterations=[plant],
            count_fsyncs=count_fsyncs,
            lives=1,
        )


async def test_files_that_may_not_grow_refuse_publishes_until_they_may(tmp_path: Path) -> None:
    await shortages.files_may_not_grow(tmp_path)


async def test_a_refused_write_that_is_confirmed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortages, "DEADLINE_S", 2.0)
    with pytest.raises((AssertionError, TimeoutError)):
        await shortages.files_may_not_grow(tmp_path, program=altered("confirm_refused"))


@needs_mount
@pytest.mark.parametrize(
    "scenario",
    [
        shortages.disk_fills_up_to_the_reserve,
        shortages.disk_fills_up_wholly,
        shortages.disk_is_read_only_at_the_start,
    ],
    ids=lambda scenario: scenario.__name__,
)
async def test_a_disk_of_its_own(small_disk: Path, scenario: Callable[[Path], Awaitable[None]]) -> None:
    await scenario(small_disk)


@needs_strace
async def test_a_disk_that_becomes_read_only_refuses_publishes_until_it_is_writable(tmp_path: Path) -> None:
    await shortages.disk_becomes_read_only(tmp_path)


async def test_a_server_without_descriptors_goes_on_and_accepts_again(tmp_path: Path) -> None:
    await shortages.descriptors_run_out(tmp_path)


async def test_thousands_of_connections_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    await connections.run(tmp_path, connections=3_000, waves=1, seed=_SEED)


async def test_connections_that_are_kept_for_ever_are_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"bytes more after|resident|let go"):
        await connections.run(tmp_path, connections=2_000, waves=2, seed=_SEED, program=altered("keep_connections"))


def delivery(sequence: int, payload: str) -> Delivery:
    return Delivery(f"{sequence} 1 False {payload}")


@pytest.mark.parametrize(
    ("evidence", "problem"),
    [
        (Evidence({1: "a"}, [{1: "a", 2: "b"}], {}), "confirmed and not stored"),
        (Evidence({1: "a"}, [{1: "x"}], {}), "confirmed and not stored"),
        (Evidence({1: "a"}, [{}], {}), "nothing was confirmed"),
        (Evidence({1: "a"}, [{1: "a"}, {1: "a"}], {}), "two messages"),
        (Evidence({1: "a", 2: "a"}, [{1: "a"}], {}), "stored twice"),
        (Evidence({1: "a", 2: "b"}, [{1: "a"}], {"s": [delivery(1, "a")]}), "never handed"),
        (Evidence({1: "a"}, [{1: "a"}], {"s": [delivery(1, "a"), delivery(2, "b")]}), "not stored"),
        (Evidence({1: "a", 2: "b"}, [{1: "a"}], {"s": [delivery(2, "b"), delivery(1, "a")]}), "later ones before"),
    ],
    ids=["lost", "another payload", "nothing", "one sequence for two", "twice", "not handed", "foreign", "order"],
)
def test_broken_promises_are_found_in_the_evidence(evidence: Evidence, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        compare(evidence)
