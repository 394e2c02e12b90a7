"""Exceptions are told by type, message, traceback and the innermost place in the application's own code."""

import asyncio
import json
from pathlib import Path

import pytest

from tidings import InvalidPayload, Reject, limits
from tidings.client.failures import describe


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def run_file(path: str, source: str) -> Exception:
    """Runs source as if it stood in a file, and returns what it raises."""
    try:
        exec(compile(source, path, "exec"), {})
    except Exception as error:
        trace = error.__traceback__
        assert trace is not None
        return error.with_traceback(trace.tb_next)  # without this very function
    raise AssertionError("it raised nothing")


class OwnError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "type", "text"),
    [
        (KeyError("vat"), "KeyError", "'vat'"),
        (OwnError("no"), f"{__name__}.OwnError", "no"),
        (InvalidPayload("bad"), "tidings.errors.InvalidPayload", "bad"),
        (Reject("why"), "tidings.Reject", "why"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError", ""),
        (ValueError("\ud800"), "ValueError", "\\ud800"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_builtin_types_go_by_their_names_and_others_with_their_modules(
    error: BaseException, type: str, text: str
) -> None:
    failure = describe(raised(error))
    assert (failure.type, failure.text) == (type, text)
    assert failure.place == "raised() in test_failures.py"


def test_the_place_is_the_innermost_frame_of_ones_own_code() -> None:
    source = "import json\ndef bill():\n    json.loads('{')\nbill()"
    failure = describe(run_file("/app/orders.py", source))
    assert failure.place == "bill() in orders.py"
    assert failure.type == "json.decoder.JSONDecodeError"
    assert "raw_decode" in failure.traceback


def test_the_place_names_a_method_by_its_class_and_a_function_in_a_function_by_itself() -> None:
    source = "class Billing:\n    def bill(self):\n        1 / 0\nBilling().bill()"
    assert describe(run_file("/app/orders.py", source)).place == "Billing.bill() in orders.py"
    source = "def main():\n    def bill():\n        1 / 0\n    bill()\nmain()"
    assert describe(run_file("/app/orders.py", source)).place == "bill() in orders.py"
    assert describe(run_file("/app/orders.py", "1 / 0")).place == "orders.py"


def test_the_place_is_the_same_after_lines_moved() -> None:
    source = "def bill():\n    1 / 0\nbill()"
    moved = "\n\n\n" + source
    assert describe(run_file("/app/orders.py", source)).place == describe(run_file("/app/orders.py", moved)).place


@pytest.mark.parametrize("path", ["/venv/lib/python3.11/site-packages/vats/rates.py", json.__file__])
def test_without_own_code_the_place_is_the_innermost_frame(path: str) -> None:
    assert describe(run_file(path, "def rate():\n    1 / 0\nrate()")).place == f"rate() in {Path(path).name}"


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    assert describe(KeyError("vat")).place == ""


def test_all_is_bounded_and_the_innermost_frames_are_kept() -> None:
    source = "def deep(n):\n    if n:\n        even(n)\n    raise ValueError('x' * 20_000)\n"
    source += "def even(n):\n    deep(n - 1)\n" + "deep(200)"
    failure = describe(run_file("/app/orders.py", source))
    assert len(failure.text) == limits.FAILURE_TEXT_LENGTH_MAX
    assert len(failure.traceback) == limits.FAILURE_TRACEBACK_LENGTH_MAX
    assert failure.traceback.count("in deep") > 10


def test_an_error_that_cannot_be_told_is_told_anyway() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert describe(raised(Mute())).text == "(its message cannot be told: RuntimeError)"
