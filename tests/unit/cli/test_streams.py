"""Lines out of bytes however they are cut, and pipes that are full or empty."""

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.cli.streams import Line, LineSplitter, read_available, write_all


def split(chunks: list[bytes], size_bytes_max: int) -> list[Line]:
    splitter = LineSplitter(size_bytes_max)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + splitter.finish()


@given(st.lists(st.text("ab\n").map(str.encode)), st.integers(0, 5))
def test_lines_are_the_same_however_the_input_is_cut(chunks, size_bytes_max):
    whole = b"".join(chunks)
    pieces = whole.split(b"\n")
    if not pieces[-1]:
        pieces.pop()
    expected = [
        Line(number, piece if len(piece) <= size_bytes_max else None, len(piece))
        for number, piece in enumerate(pieces, 1)
    ]
    assert split(chunks, size_bytes_max) == expected


def test_windows_line_ends_are_cut_off():
    assert [line.data for line in split([b"a\r\nb\r", b"\nc\r"], 10)] == [b"a", b"b", b"c"]


def test_a_line_without_end_is_not_kept_beyond_the_limit():
    splitter = LineSplitter(10)
    for _ in range(1000):
        assert splitter.feed(b"x" * 100) == []
    assert splitter._pieces == []
    assert splitter.feed(b"\nshort\n") == [Line(1, None, 100_000), Line(2, b"short", 5)]


async def test_reading_an_empty_pipe_lets_others_go_on():
    reader, writer = os.pipe()
    try:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read_available(reader))
            await asyncio.sleep(0)
            assert not reading.done()
            os.write(writer, b"hello")
        assert reading.result() == b"hello"
    finally:
        os.close(reader)
        os.close(writer)


async def test_reading_a_file_ends_with_nothing(tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"abc")
    with path.open("rb") as file:
        assert await read_available(file.fileno()) == b"abc"
        assert await read_available(file.fileno()) == b""


async def test_writing_to_a_full_pipe_waits_for_its_reader():
    reader, writer = os.pipe()
    data = os.urandom(1024 * 1024)  # more than any pipe holds
    received = b""
    try:
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(write_all(writer, data))
            while len(received) < len(data):
                received += await read_available(reader)
        assert writing.done()
        assert received == data
    finally:
        os.close(reader)
        os.close(writer)


async def test_writing_to_nobody_is_a_broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with pytest.raises(BrokenPipeError):
            await write_all(writer, b"x")
    finally:
        os.close(writer)
