"""Damage inside a data file: reading goes on behind it, and the check names it."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tidings.batch import StoredBatch
from tidings.errors import StoreDamaged, StoreUnusable
from tidings.store.port import Append, Commit, Damage
from tidings.store.sqlite import SqliteStore, check
from tidings.store.sqlite.schema import PAGE_BYTES
from tidings.testing.store_contract import append_all, make_batch, make_rows

ALL_BYTES = 1 << 30
BodyPage = Callable[[bytearray, bytes], int]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


async def fill(path: Path) -> list[StoredBatch]:
    """Four rows of two messages, each row with letters of its own and several pages long."""
    rows = [
        StoredBatch(1 + 2 * index, 1000, make_batch(2, size_bytes=30_000, fill=letter))
        for index, letter in enumerate((b"A", b"B", b"C", b"D"))
    ]
    store = SqliteStore(path)
    await store.open()
    await store.commit(append_all(rows)._replace(puts=[("a", msgspec.msgpack.encode([1]))]))
    await store.close()
    return rows


def flip(path: Path, letter: bytes, body_page: BodyPage) -> None:
    content = bytearray(path.read_bytes())
    content[body_page(content, letter) + 100] ^= 1
    path.write_bytes(content)


def break_chain(path: Path, letter: bytes, body_page: BodyPage) -> None:
    """The pages of a body form a chain: makes one name a page that does not exist as its next."""
    content = bytearray(path.read_bytes())
    page = body_page(content, letter)
    content[page : page + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)


def overwrite_records(path: Path) -> None:
    connection = sqlite3.connect(path)
    root_page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'records'").fetchone()[0]
    connection.close()
    content = bytearray(path.read_bytes())
    content[(root_page - 1) * PAGE_BYTES : root_page * PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(content)


def move_in_index(path: Path) -> None:
    """Makes the index say that the row of sequence 7, its fourth, begins at 2, out of order."""
    content = bytearray(path.read_bytes())
    # Sizes and types, then the values: the integer 1 (queue) takes no bytes, 7 (first_sequence), 4 (row number).
    place = content.index(b"\x04\x09\x01\x01\x07\x04")
    content[place + 4] = 2
    path.write_bytes(content)


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


async def pages_of(path: Path, limit_bytes: int) -> list[StoredBatch | Damage]:
    store = SqliteStore(path)
    await store.open()
    found: list[StoredBatch | Damage] = []
    after = 0
    while page := await store.read(1, after, limit_bytes):
        found += page
        assert page[-1].last_sequence > after
        after = page[-1].last_sequence
    await store.close()
    return found


def problems_of(path: Path) -> list[str]:
    problems: list[str] = []
    result = check(path, problems.append)
    assert result.problems == len(problems)
    assert result.sound == (not problems)
    return problems


async def test_the_check_of_a_sound_file_counts_what_it_holds(path: Path) -> None:
    rows = await fill(path)
    assert problems_of(path) == []
    result = check(path, print)
    assert (result.queues, result.rows, result.messages, result.records) == (1, 4, 8, 1)
    assert result.size_bytes == sum(len(row.batch.body) for row in rows)


def test_the_check_of_a_missing_file_makes_none(path: Path) -> None:
    with pytest.raises(StoreUnusable, match="no data file"):
        check(path, print)
    assert not path.exists()


@pytest.mark.parametrize("limit_bytes", [1, ALL_BYTES])
@pytest.mark.parametrize(("place", "letter"), list(enumerate((b"A", b"B", b"C", b"D"))))
async def test_a_flipped_bit_in_a_body_costs_its_row_only(
    path: Path, place: int, letter: bytes, limit_bytes: int, body_page: BodyPage
) -> None:
    rows = await fill(path)
    flip(path, letter, body_page)
    found = await pages_of(path, limit_bytes)
    damage = found[place]
    assert isinstance(damage, Damage)
    first = 1 + 2 * place
    assert (damage.first_sequence, damage.last_sequence) == (first, first + 1)
    assert "checksum" in damage.reason
    assert found[:place] + found[place + 1 :] == rows[:place] + rows[place + 1 :]
    (problem,) = problems_of(path)
    last = "the end" if place == 3 else first + 1
    assert f"queue 1, sequences {first} to {last}" in problem
    assert "backup" in problem


@pytest.mark.parametrize(
    "assignment",
    [
        "last_sequence = 90",
        "time_ms = 7",
        "offset_bytes = 1",
        "size_bytes = 1",
        "checksum = 5",
        "runs = x'90'",
        "checksum = 'text'",
        "body = 'text'",
        "last_sequence = x'00'",
        "runs = 3",
    ],
)
async def test_any_changed_column_is_found(path: Path, assignment: str) -> None:
    rows = await fill(path)
    execute(path, f"UPDATE rows SET {assignment} WHERE first_sequence = 3")
    found = await pages_of(path, 1)
    assert [isinstance(row, Damage) for row in found] == [False, True, False, False]
    assert (found[1].first_sequence, found[1].last_sequence) == (3, 4)
    assert found[2:] == rows[2:]
    assert any("queue 1, sequences 3 to 4" in problem for problem in problems_of(path))


@pytest.mark.parametrize("limit_bytes", [1, ALL_BYTES])
async def test_a_broken_page_costs_the_rows_on_it_only(path: Path, limit_bytes: int, body_page: BodyPage) -> None:
    rows = await fill(path)
    break_chain(path, b"B", body_page)
    found = await pages_of(path, limit_bytes)
    assert [isinstance(row, Damage) for row in found] == [False, True, False, False]
    assert (found[1].first_sequence, found[1].last_sequence) == (3, 4)
    assert [found[0], *found[2:]] == [rows[0], *rows[2:]]
    problems = problems_of(path)
    assert any("queue 1, sequences 3 to 4" in problem for problem in problems)
    assert any("SQLite finds" in problem for problem in problems)


async def test_the_store_goes_on_beside_damage(path: Path, body_page: BodyPage) -> None:
    await fill(path)
    flip(path, b"B", body_page)
    store = SqliteStore(path)
    await store.open()
    await store.commit(append_all(make_rows(1, first=9)))
    bounds = (await store.bounds([1]))[1]
    assert (bounds.first_sequence, bounds.last_sequence) == (1, 9)
    await store.close()


async def test_damage_that_only_reading_shows_is_named_with_what_to_do(path: Path) -> None:
    await fill(path)
    overwrite_records(path)
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(StoreDamaged, match="tidings check"):
        await store.list("")
    with pytest.raises(StoreDamaged, match="tidings check"):
        await store.get("a")
    await store.close()


@pytest.mark.parametrize("value", ["'text'", "x'00'", "1.5"])
async def test_a_number_that_is_none_is_damage_wherever_it_is_looked_at(path: Path, value: str) -> None:
    await fill(path)
    execute(path, f"UPDATE rows SET last_sequence = {value} WHERE first_sequence = 7")
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(StoreDamaged, match="tidings check"):
        await store.bounds([1])
    with pytest.raises(StoreDamaged, match="tidings check"):
        await store.survey(1, 0, 10)
    await store.close()


async def test_a_record_that_is_not_bytes_is_damage(path: Path) -> None:
    await fill(path)
    execute(path, "UPDATE records SET value = 'text'")
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(StoreDamaged, match="not bytes"):
        await store.get("a")
    await store.close()


async def test_an_index_out_of_order_is_damage_and_not_read_without_end(path: Path) -> None:
    rows = await fill(path)
    move_in_index(path)
    store = SqliteStore(path)
    await store.open()
    assert await store.read(1, 0, ALL_BYTES) == rows[:3]
    with pytest.raises(StoreDamaged, match="comes after 6"):
        await store.read(1, 6, ALL_BYTES)
    await store.close()
    assert any("SQLite finds" in problem for problem in problems_of(path))


async def test_the_check_finds_a_missing_row_and_wrong_offsets(path: Path) -> None:
    await fill(path)
    execute(path, "DELETE FROM rows WHERE first_sequence = 3")
    problems = problems_of(path)
    assert any("sequences 5 to 6: the row before ends at 2" in problem for problem in problems)
    assert any("begins at byte" in problem for problem in problems)


async def test_the_check_finds_a_body_that_is_not_what_its_runs_say(path: Path) -> None:
    # The checksum is right: only decoding tells.
    store = SqliteStore(path)
    await store.open()
    sound = make_batch(2)
    broken = make_batch(2)
    broken.body = broken.body[:-1] + b"\xff"
    await store.commit(Commit([Append(1, StoredBatch(1, 1, sound)), Append(2, StoredBatch(1, 1, broken))]))
    await store.close()
    (problem,) = problems_of(path)
    assert "queue 2, sequences 1 to the end" in problem
    assert "not 2 messages" in problem


async def test_the_check_finds_records_that_cannot_be_decoded(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    puts = [("good", b"\x93\x01\x02\x03"), ("cut off", b"\x93\x01"), ("not UTF-8", b"\xa1\xff")]
    await store.commit(Commit(puts=puts))
    await store.close()
    problems = problems_of(path)
    assert len(problems) == 2
    assert "'cut off'" in problems[0]
    assert "'not UTF-8'" in problems[1]
