"""Times, sizes, tables and JSON lines as they are printed."""

import json

import pytest

from tidings.cli.output import print_entries, print_table, printable, readable_size, relative_time, time_until

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("age_ms", "text"),
    [
        (-5, "now"),
        (999, "now"),
        (1_000, "1 s ago"),
        (59_999, "59 s ago"),
        (60_000, "1 min ago"),
        (HOUR_MS, "1 h ago"),
        (24 * HOUR_MS - 1, "23 h ago"),
        (50 * HOUR_MS, "2 d ago"),
    ],
)
def test_tables_tell_how_long_ago(age_ms, text):
    now_ms = 10**12
    assert relative_time(now_ms - age_ms, now_ms) == text


@pytest.mark.parametrize(
    ("ahead_ms", "text"),
    [
        (-5_000, "now"),
        (999, "now"),
        (1_000, "in 1 s"),
        (59_999, "in 59 s"),
        (HOUR_MS, "in 1 h"),
        (50 * HOUR_MS, "in 2 d"),
    ],
)
def test_tables_tell_how_far_ahead(ahead_ms, text):
    now_ms = 10**12
    assert time_until(now_ms + ahead_ms, now_ms) == text


def test_what_never_happened_is_never():
    assert relative_time(None, 5) == "never"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024, "1.5 MiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes_are_readable(size, text):
    assert readable_size(size) == text


def test_what_would_steer_a_terminal_is_escaped():
    assert printable("a\x1b[31m\nb\udcff ü") == "a\\x1b[31m\\nb\\udcff ü"


def test_a_table_keeps_brackets_and_long_names_whole_in_a_pipe(capfd):
    name = "[bold]" + "x" * 300
    print_table(("name", "count"), [(name, 12_345), ("short", 1)], empty="none")
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 4
    assert name in lines[2]
    assert lines[2].endswith(" 12,345")
    assert lines[3].endswith("      1")


def test_an_empty_table_says_so(capfd):
    print_table(("name",), [], empty="No queue yet.")
    assert capfd.readouterr().out == "No queue yet.\n"


def test_json_lines_are_one_object_each(capfd):
    print_entries([{"name": "a\nb", "last": None}, {"name": "ü"}])
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"name": "a\nb", "last": None}, {"name": "ü"}]
