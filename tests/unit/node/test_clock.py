"""The clock: never backwards, slewed to the wall."""

import pytest

from tidings.node.clock import SystemClock


class Times:
    """The machine's two times, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steady_s = 50.0
        self.wall_s = 1_700_000_000.0
        monkeypatch.setattr("tidings.node.clock.time.monotonic", lambda: self.steady_s)
        monkeypatch.setattr("tidings.node.clock.time.time", lambda: self.wall_s)

    def passed(self, seconds: float) -> None:
        """Lets both go on."""
        self.steady_s += seconds
        self.wall_s += seconds


def test_it_shows_the_wall_clock_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    clock = SystemClock()
    assert clock.now_ms() == 1_700_000_000_000
    times.passed(1.5)
    assert clock.now_ms() == 1_700_000_001_500


def test_a_wall_clock_set_back_slows_it_down_and_never_turns_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    clock = SystemClock()
    times.wall_s -= 3600
    before = clock.now_ms()
    for _ in range(100):
        times.passed(1)
        now = clock.now_ms()
        assert before < now <= before + 1000
        before = now
    assert before == pytest.approx(1_700_000_090_000, abs=2)


def test_a_wall_clock_set_forward_speeds_it_up_until_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    clock = SystemClock()
    times.wall_s += 10
    times.passed(10)
    assert clock.now_ms() == pytest.approx(1_700_000_011_000, abs=2)
    for _ in range(20):
        times.passed(10)
        clock.now_ms()
    assert clock.now_ms() == pytest.approx(times.wall_s * 1000, abs=2)


def test_it_takes_its_times_from_where_it_is_told_to() -> None:
    clock = SystemClock(lambda: 5.0, lambda: 1234.5)
    assert clock.now_ms() == 1_234_500


def test_without_time_passing_it_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    clock = SystemClock()
    times.wall_s += 100
    assert clock.now_ms() == clock.now_ms() == 1_700_000_000_000
