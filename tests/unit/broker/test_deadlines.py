"""Deadlines: one time for each key, earliest first."""

from hypothesis import given
from hypothesis import strategies as st

from tidings.broker.deadlines import Deadlines


def test_keys_come_due_earliest_first_and_once() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("late", 30)
    deadlines.set("early", 10)
    assert list(deadlines.due(9)) == []
    assert list(deadlines.due(30)) == ["early", "late"]
    assert list(deadlines.due(100)) == []
    assert deadlines.next_ms() is None


def test_setting_a_key_again_moves_it_both_ways() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("key", 10)
    deadlines.set("key", 20)
    assert list(deadlines.due(15)) == []
    deadlines.set("key", 5)
    assert deadlines.next_ms() == 5
    assert list(deadlines.due(20)) == ["key"]


def test_at_latest_never_moves_a_key_to_later() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set_at_latest("key", 10)
    deadlines.set_at_latest("key", 20)
    assert deadlines.next_ms() == 10
    deadlines.set_at_latest("key", 5)
    assert deadlines.next_ms() == 5


def test_a_removed_key_is_never_due() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("key", 10)
    deadlines.remove("key")
    deadlines.remove("unknown")
    assert deadlines.next_ms() is None
    assert list(deadlines.due(10)) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "at_latest", "remove", "due"]), st.integers(0, 3), st.integers(0, 20)),
        max_size=40,
    )
)
def test_any_work_agrees_with_a_dictionary(steps: list[tuple[str, int, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, int] = {}
    for what, key, time_ms in steps:
        if what == "set":
            deadlines.set(key, time_ms)
            model[key] = time_ms
        elif what == "at_latest":
            deadlines.set_at_latest(key, time_ms)
            model[key] = min(model.get(key, time_ms), time_ms)
        elif what == "remove":
            deadlines.remove(key)
            model.pop(key, None)
        else:
            due = {key for key, due_ms in model.items() if due_ms <= time_ms}
            found = list(deadlines.due(time_ms))
            assert [model[key] for key in found] == sorted(model[key] for key in found)
            assert sorted(found) == sorted(due)
            model = {key: due_ms for key, due_ms in model.items() if key not in due}
        assert deadlines.next_ms() == min(model.values(), default=None)


def test_what_was_removed_or_moved_before_its_time_takes_no_room() -> None:
    deadlines: Deadlines[int] = Deadlines()
    deadlines.set(-1, 5_000)
    for key in range(1_000):
        deadlines.set(key, 10_000 + key)
        deadlines.remove(key)
        deadlines.set(-2, 20_000 + key)
    assert len(deadlines._heap) < 100
    assert list(deadlines.due(30_000)) == [-1, -2]
