"""Cursors, against a model that keeps one state for each message."""

from dataclasses import dataclass, field
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.harness import batch_of
from tidings.batch import StoredBatch
from tidings.broker.cursors import Cursor, State
from tidings.broker.filters import Filter
from tidings.broker.queues import Queue
from tidings.broker.subscriptions import Subscription

Step = tuple[str, int, int]
ROWS = [["a"], ["a", "b"], ["b", "b"], ["a", "b", "a"], ["b"]]


def rows_of(events: list[list[str]]) -> list[StoredBatch]:
    """Returns rows that hold these events, one after the other."""
    rows: list[StoredBatch] = []
    for row in events:
        rows.append(StoredBatch(rows[-1].last_sequence + 1 if rows else 1, 1, batch_of(*row)))
    return rows


def cursor_on(rows: list[StoredBatch], event: str = "#") -> Cursor:
    """Returns a cursor at the beginning of a queue that holds these rows."""
    queue = Queue("orders", 1, 0)
    queue.committed = rows[-1].last_sequence
    subscription = Subscription(1, "reader", None, Filter("orders", event), durable=True, created_ms=0)
    cursor = Cursor(subscription, queue, 0)
    queue.add(cursor)
    return cursor


@dataclass
class Model:
    """Each message is new, in flight, due (again) or settled; `position` ends what was looked at."""

    rows: list[StoredBatch]
    event: str
    position: int = 0
    states: dict[int, str] = field(default_factory=dict)

    def wants(self, sequence: int) -> bool:
        """Whether the filter selects a message."""
        if self.event == "#":
            return True
        (row,) = [row for row in self.rows if row.first_sequence <= sequence <= row.last_sequence]
        events = [run.event for run in row.batch.runs for _ in range(run.count)]
        return events[sequence - row.first_sequence] == self.event

    def of(self, sequence: int) -> str:
        """The state of a message."""
        return self.states.get(sequence, "settled" if sequence <= self.position else "new")

    def take(self, row: StoredBatch, room: int) -> tuple[list[int], bool, bool]:
        """Returns what is to be sent of a row, whether any of it was due again, and whether more would be."""
        inside = range(row.first_sequence, row.last_sequence + 1)
        for sequence in inside:
            if self.of(sequence) == "due" and not self.wants(sequence):
                self.states[sequence] = "settled"
        ready = [sequence for sequence in inside if self.wants(sequence) and self.of(sequence) in ("due", "new")]
        taken = ready[: max(0, room)]
        again = any(self.of(sequence) == "due" for sequence in taken)
        cut_short = len(ready) > len(taken)
        self.states |= dict.fromkeys(taken, "flight")
        self.position = max(self.position, (taken[-1] if taken else 0) if cut_short else row.last_sequence)
        return taken, again, cut_short

    def settle(self, first: int, last: int) -> int:
        """Settles what was delivered; returns how many of it were in flight."""
        flying = [sequence for sequence in range(first, last + 1) if self.of(sequence) == "flight"]
        for sequence in range(first, min(last, self.position) + 1):
            self.states[sequence] = "settled"
        return len(flying)

    def skip(self, first: int, last: int) -> list[int]:
        """Gives up a range; returns what was lost."""
        lost = [sequence for sequence in range(first, last + 1) if self.of(sequence) in ("due", "new")]
        self.position = max(self.position, last)
        self.states |= dict.fromkeys(lost, "settled")
        return lost

    def settle_ahead(self, first: int, last: int) -> None:
        """Settles a range that may not have been looked at; what is before it and new becomes due."""
        for sequence in range(self.position + 1, last + 1):
            self.states[sequence] = "due"
        self.position = max(self.position, last)
        for sequence in range(first, last + 1):
            self.states[sequence] = "settled"


def numbers(ranges: list[tuple[int, int]]) -> list[int]:
    """Returns all members of ranges."""
    return [number for low, high in ranges for number in range(low, high + 1)]


def assert_same(cursor: Cursor, model: Model) -> None:
    """Checks everything that a cursor tells against the model."""
    every = range(1, model.rows[-1].last_sequence + 1)
    unsettled = [sequence for sequence in every if model.of(sequence) in ("flight", "due")]
    due = [sequence for sequence in every if model.of(sequence) == "due"]
    assert numbers(list(cursor.unsettled)) == unsettled
    assert numbers(list(cursor.due)) == due
    assert cursor.position == model.position
    assert cursor.in_flight == len(unsettled) - len(due)
    assert cursor.settled_to == (unsettled[0] - 1 if unsettled else model.position)
    assert cursor.next_read() == (due[0] - 1 if due else model.position)
    assert cursor.at_tail == (not due and model.position == every[-1])


def work(events: list[list[str]], event: str, steps: list[Step]) -> None:
    """Does the same to a cursor and to the model, and compares them after each step."""
    rows = rows_of(events)
    cursor, model = cursor_on(rows, event), Model(rows, event)
    end = rows[-1].last_sequence
    for what, one, two in steps:
        first, last = min(one, two) % end + 1, max(one, two) % end + 1
        first, last = min(first, last), max(first, last)
        if what == "page":
            page = [row for row in rows if row.last_sequence > cursor.next_read()]
            room = one
            for row in page:
                expected, again, cut_short = model.take(row, room)
                taken = cursor.take(row, room)
                assert numbers(taken.ranges) == expected
                assert (taken.redelivered, taken.cut_short) == (again, cut_short)
                assert (taken.row is None) == (not expected)
                if taken.row is not None:
                    assert sent_by(taken.row) == expected
                room -= len(expected)
                if cut_short:
                    break
        elif what == "settle":
            assert cursor.settle(first, last) == model.settle(first, last)
        elif what == "skip":
            assert numbers(cursor.skip(first, last)) == model.skip(first, last)
        elif what == "settle_ahead":
            cursor.settle_ahead(first, last)
            model.settle_ahead(first, last)
        else:
            cursor.take_back()
            model.states |= {sequence: "due" for sequence, state in model.states.items() if state == "flight"}
        assert_same(cursor, model)


def sent_by(row: StoredBatch) -> list[int]:
    """Returns the sequences of the messages that are present in a row, after checking its bytes."""
    sizes = sum(run.size for run in row.batch.runs)
    assert sizes == len(row.batch.body)
    return [row.first_sequence + place for place in numbers(row.batch.present())]


def test_all_short_stories_agree_with_the_model() -> None:
    choices: list[Step] = [
        ("page", 1, 0),
        ("page", 9, 0),
        ("settle", 0, 1),
        ("settle", 1, 1),
        ("settle", 2, 2),
        ("skip", 0, 1),
        ("settle_ahead", 1, 2),
        ("take_back", 0, 0),
    ]
    for event in ("#", "a"):
        for story in product(choices, repeat=4):
            work([["a"], ["b", "a"]], event, list(story))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(ROWS), min_size=1, max_size=6),
    st.sampled_from(["#", "a", "c"]),
    st.lists(
        st.tuples(
            st.sampled_from(["page", "page", "settle", "settle", "skip", "settle_ahead", "take_back"]),
            st.integers(0, 15),
            st.integers(0, 15),
        ),
        max_size=25,
    ),
)
def test_long_stories_agree_with_the_model(events: list[list[str]], event: str, steps: list[Step]) -> None:
    work(events, event, steps)


def test_a_whole_row_is_passed_on_as_it_is() -> None:
    rows = rows_of([["a", "a"]])
    assert cursor_on(rows).take(rows[0], 2).row is rows[0]


def test_failed_attempts_are_told_until_the_message_is_settled() -> None:
    rows = rows_of([["a", "a", "a"]])
    cursor = cursor_on(rows)
    cursor.take(rows[0], 3)
    cursor.fail(2)
    cursor.fail(2)
    cursor.fail(3)
    assert cursor.attempts_in([(1, 3)]) == [(2, 3), (3, 2)]
    assert cursor.attempts_in([(3, 3)]) == [(3, 2)]
    cursor.settle(2, 2)
    assert cursor.attempts_in([(1, 3)]) == [(3, 2)]


def test_an_idle_cursor_stands_at_the_tail_of_its_queue() -> None:
    rows = rows_of([["a"], ["a"]])
    cursor = cursor_on(rows, "b")
    cursor.queue.set_state(cursor, State.IDLE)
    assert cursor.settled_to == 2
    cursor.queue.committed = 5
    assert cursor.settled_to == 5
    cursor.queue.set_state(cursor, State.WAITING)
    assert cursor.position == 5
