"""What a client tells of an exception: its type and message, its traceback, and where in the application it was."""

import sysconfig
import traceback
from functools import lru_cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

from tidings import limits
from tidings.model import Failure

_OURS: Final = Path(__file__).resolve().parents[1]
_LIBRARY: Final = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_INSTALLED: Final = {"site-packages", "dist-packages"}


def describe(error: BaseException) -> Failure:
    """Returns an exception as a failure: the same error in the same place is told in the same way.

    The place is the innermost frame of the application's own code, which is what is neither Tidings, nor the standard
    library, nor installed beside it; without one, the innermost frame of all. The traceback begins where Tidings
    called the application.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [frame for frame in frames if _is_own(frame.f_code.co_filename)]
    innermost = (own or frames)[-1:]
    told = "".join(traceback.format_exception(type(error), error, _beyond_ours(error.__traceback__)))
    text = text_of(error)
    if len(text) > limits.FAILURE_TEXT_LENGTH_MAX:  # at the end of the traceback it would leave no room for frames
        told = told.replace(text, text := text[: limits.FAILURE_TEXT_LENGTH_MAX])
    return Failure(
        _clean(_type_name(type(error))),
        _clean(text)[: limits.FAILURE_TEXT_LENGTH_MAX],
        _clean(_place(innermost[0])) if innermost else "",
        _clean(told)[-limits.FAILURE_TRACEBACK_LENGTH_MAX :],
    )


def sentence(text: str) -> Failure:
    """Returns a sentence as the failure that its exception would be, so that dead letters look the same both ways."""
    return Failure("tidings.Reject", _clean(text)[: limits.FAILURE_TEXT_LENGTH_MAX])


def _type_name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(error: BaseException) -> str:
    """Returns what an exception of the application says."""
    try:
        return str(error)
    except Exception as failed:  # a `__str__` of the application's may do anything
        return f"(its message cannot be told: {type(failed).__name__})"


def _place(frame: FrameType) -> str:
    # Functions in functions are told by their own names: the others say only where they were made.
    name = frame.f_code.co_qualname.rpartition("<locals>.")[2]
    file = Path(frame.f_code.co_filename).name
    return file if name == "<module>" else f"{name}() in {file}"


def _beyond_ours(trace: TracebackType | None) -> TracebackType | None:
    """Returns a traceback without the frames of Tidings that it begins with."""
    beyond = trace
    while beyond is not None and _is_ours(beyond.tb_frame.f_code.co_filename):
        beyond = beyond.tb_next
    return beyond or trace


@lru_cache(maxsize=4_096)
def _is_own(file: str) -> bool:
    if file.startswith("<frozen "):
        return False
    path = Path(file).resolve()
    if _is_ours(file) or _INSTALLED.intersection(path.parts):
        return False
    return not any(path.is_relative_to(directory) for directory in _LIBRARY)


@lru_cache(maxsize=4_096)
def _is_ours(file: str) -> bool:
    return Path(file).resolve().is_relative_to(_OURS)


def _clean(text: str) -> str:
    # What cannot be spelled in UTF-8, such as names of files that are not, is told as escapes.
    return text.encode("utf-8", "backslashreplace").decode()
