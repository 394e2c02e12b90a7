"""Options that several verbs share, and how verbs reach a server."""

import asyncio
import re
from collections.abc import Coroutine
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from cyclopts import Parameter

import tidings
from tidings import model
from tidings.errors import InvalidOption

SERVER_DEFAULT: Final = "tidings://127.0.0.1:7433"

CONNECT_TIMEOUT_S: Final = 5.0
"""How long a verb tries to reach a server before it says so; a person is waiting."""

Server = Annotated[str, Parameter(name="--server", env_var="TIDINGS_SERVER", help="Server to talk to.", metavar="URL")]
Json = Annotated[bool, Parameter(name="--json", help="Print one JSON object per line.", show_default=False)]

Start = Literal["earliest", "latest"] | int | datetime
Result = TypeVar("Result")


def connect(server: str, *, client_id: str | None = None) -> tidings.Client:
    """Returns a client of this server, to be opened with `async with`.

    Raises:
        InvalidOption: `server` is no address, or a data file that is not there. The library would make it; here a
            slip of the pen would look like a server without queues.
    """
    if not server.startswith(("tidings://", "sqlite:")):
        raise InvalidOption(f"--server {server}: write tidings://HOST:PORT, for example {SERVER_DEFAULT}")
    if server.startswith("sqlite:") and not Path(server.removeprefix("sqlite:")).exists():
        raise InvalidOption(f"--server {server}: there is no such data file; tidings serve --store {server} makes it")
    return tidings.connect(server, client_id=client_id, timeout=CONNECT_TIMEOUT_S)


def run_async(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Runs a verb to its end; Ctrl-C cancels it, lets it close its connection and raises KeyboardInterrupt."""
    return asyncio.run(coroutine)


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns what ended a task group first; the rest was cancelled for it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def parse_start(text: str, option: str = "--from", *, words: str = "earliest, latest") -> Start:
    """Returns what `--from` or another option means: "earliest", "latest", a sequence or a time.

    Digits alone are a sequence. A time is ISO 8601; without an offset it is this machine's local time.

    Raises:
        InvalidOption: it is none of these.
    """
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    if re.fullmatch(r"[0-9]+", text):
        if int(text) < 1:
            raise InvalidOption(f"{option} 0: sequences begin at 1; write earliest for all there is")
        return int(text)
    try:
        return parse_time(text, option)
    except InvalidOption:
        raise InvalidOption(
            f"{option} {text}: write {words}, a sequence such as 42, or a time such as 2026-01-31T08:00:00Z"
        ) from None


def parse_time(text: str, option: str) -> datetime:
    """Returns a time in ISO 8601; without an offset it is this machine's local time.

    Raises:
        InvalidOption: it is none.
    """
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise InvalidOption(f"{option} {text}: write a time such as 2026-01-31T08:00:00Z") from None


def parse_headers(pairs: tuple[str, ...]) -> dict[str, str] | None:
    """Returns the headers that `--header NAME=VALUE` gave, None if there are none.

    Raises:
        InvalidOption: one is not NAME=VALUE, or a name comes twice.
    """
    headers: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidOption(f"--header {pair}: write NAME=VALUE")
        if name in headers:
            raise InvalidOption(f"--header {pair}: {name} is given twice; a message has one value for a name")
        headers[name] = value
    return headers or None


def parse_header_filters(texts: tuple[str, ...]) -> dict[str, list[str | tidings.Prefix]]:
    """Returns what `--header` asks of headers, as `Client.subscribe` takes it.

    Raises:
        InvalidFilter: one is none of `NAME=VALUE`, `NAME^=BEGINNING` and `NAME`.
    """
    wanted = model.parse_header_filters(texts)
    return {each.name: [*each.values, *map(tidings.Prefix, each.prefixes)] for each in wanted}


def parse_limit(option: str, text: str) -> float:
    """Returns a limit as the client takes it: a number, or for `none` infinity.

    Raises:
        InvalidOption: it is neither.
    """
    if text == "none":
        return inf
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise InvalidOption(f"--{option.replace('_', '-')} {text}: write a number, or none for no limit") from None
