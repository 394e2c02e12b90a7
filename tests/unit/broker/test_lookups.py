"""Lookups: each answer goes to the question it belongs to, once."""

from tests.unit.broker.harness import batch_of
from tidings.batch import StoredBatch
from tidings.broker.effects import ListRecords, ReadRecords, ReadRows
from tidings.broker.lookups import Lookups
from tidings.transaction import Damage


def test_answers_find_their_questions_in_any_order() -> None:
    lookups, heard = Lookups(), list[object]()
    rows = lookups.rows(7, 3, 100, lambda found: heard.append(("rows", found)))
    records = lookups.records(["a", "b"], lambda found: heard.append(("records", found)))
    listing = lookups.listing("a/", "a/1", 200, lambda found: heard.append(("listing", found)))
    assert rows == ReadRows(rows.ticket, 7, 3, 100)
    assert records == ReadRecords(records.ticket, ["a", "b"])
    assert listing == ListRecords(listing.ticket, "a/", "a/1", 200)
    assert len({rows.ticket, records.ticket, listing.ticket}) == 3
    row = StoredBatch(4, 1, batch_of("made"))
    lookups.records_listed(listing.ticket, [("a/2", b"2")])
    lookups.rows_read(rows.ticket, [row])
    lookups.records_read(records.ticket, [b"1", None])
    assert heard == [("listing", [("a/2", b"2")]), ("rows", [row]), ("records", [b"1", None])]


def test_an_answer_may_lead_to_the_next_question() -> None:
    lookups, heard = Lookups(), list[object]()
    second: list[ReadRows] = []
    first = lookups.rows(1, 0, 1, lambda _: second.append(lookups.rows(1, 5, 1, heard.append)))
    lookups.rows_read(first.ticket, [])
    damage = Damage(6, 9, "broken")
    lookups.rows_read(second[0].ticket, [damage])
    assert heard == [[damage]]
