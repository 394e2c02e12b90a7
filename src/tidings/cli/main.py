"""The command `tidings`: its verbs, and what becomes of errors, Ctrl-C and a closed pipe."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import tidings
from tidings.errors import TidingsError

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

EXIT_ERROR: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, what shells report for a command that Ctrl-C ended."""
EXIT_BROKEN_PIPE: Final = 141
"""128 + SIGPIPE, what shells report for a command whose reader went away."""

_EXTRAS: Final = {"cyclopts", "rich", "watchfiles", "uvloop"}


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code; `arguments` None means those of the process.

    0: done. 1: an error, told in one line on standard error. 2: the command line was wrong.
    130: Ctrl-C. 141: the reader of the output went away.
    """
    _open_closed_streams()
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except TidingsError as error:
        print_error(error)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        # What the system refuses a verb, as a full disk behind its output; the server's own are told by its errors.
        try:
            sys.stdout.flush()
        except OSError:
            _silence_output()
        print(f"error (system): {error}", file=sys.stderr)
        return EXIT_ERROR
    except ModuleNotFoundError as error:
        # Only what an extra would bring is the user's to install; anything else is a bug and keeps its traceback.
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        print(f'tidings: {error.name} is not installed; run: pip install "tidings[server]"', file=sys.stderr)
        return EXIT_ERROR


def print_error(error: TidingsError) -> None:
    """Tells an error in one line on standard error."""
    print(f"error ({error.code}): {' '.join(error.text.split())}", file=sys.stderr)


def application() -> "App":
    """Returns the command with all its verbs.

    The imports wait until here so that a missing extra can be told in one line.
    """
    from cyclopts import App, Parameter

    from tidings.cli import (
        backup,
        check,
        clients,
        dead_letters,
        output,
        pause,
        peek,
        publish,
        purge,
        queues,
        receipt,
        redrive,
        replay,
        resume,
        schedules,
        seek,
        serve,
        subscribe,
        subscriptions,
        watch,
        webhooks,
    )

    app = App(
        name="tidings",
        help=(
            "An event queue server: every subscription gets every message, also those published while it was away.\n\n"
            "Start with `tidings serve`, then `tidings publish` and `tidings subscribe`."
        ),
        version=tidings.__version__,
        help_format="markdown",
        default_parameter=Parameter(negative=()),  # no --no-json beside --json
        console=output.console(),
        suppress_keyboard_interrupt=False,  # `run` has the say about exit codes
    )
    app.command(serve.serve)
    app.command(publish.publish, usage="Usage: tidings publish QUEUE EVENT [PAYLOAD | -] [OPTIONS]")
    app.command(subscribe.subscribe, usage="Usage: tidings subscribe QUEUE [EVENT] [OPTIONS]")
    app.command(watch.watch)
    app.command(clients.app)
    app.command(queues.app)
    app.command(subscriptions.app)
    app.command(dead_letters.dead_letters)
    app.command(redrive.redrive)
    app.command(receipt.receipt)
    app.command(schedules.app)
    app.command(pause.pause, usage="Usage: tidings pause SUBSCRIPTION | --queue QUEUE [OPTIONS]")
    app.command(resume.resume, usage="Usage: tidings resume SUBSCRIPTION | --queue QUEUE [OPTIONS]")
    app.command(seek.seek)
    app.command(peek.peek)
    app.command(purge.purge)
    app.command(replay.replay, usage="Usage: tidings replay QUEUE [EVENT] [OPTIONS]")
    app.command(webhooks.app)
    app.command(check.check)
    app.command(backup.backup)
    verbs = (
        *("serve", "publish", "subscribe", "watch", "clients", "queues", "subscriptions", "dead-letters", "redrive"),
        *("pause", "resume", "seek", "replay", "schedules", "peek", "purge", "receipt", "webhooks"),
    )
    for place, verb in enumerate(verbs):
        app[verb].sort_key = place  # the order in which one needs them, not of the alphabet
    return app


def _run(arguments: list[str]) -> int:
    app = application()
    from cyclopts import CycloptsError

    try:
        result = app(arguments, exit_on_error=False, result_action="return_value", error_formatter=_told)
    except CycloptsError:
        return EXIT_USAGE  # cyclopts has told what is wrong
    sys.stdout.flush()  # here a closed pipe is still quiet; at the interpreter's exit it would not be
    return result if isinstance(result, int) else 0


def _told(error: "CycloptsError") -> object:
    """Returns how a wrong command line is told: as cyclopts does, but for what was left over."""
    from cyclopts import CycloptsPanel
    from cyclopts.exceptions import UnusedCliTokensError

    if not isinstance(error, UnusedCliTokensError):
        return CycloptsPanel(error)
    left = " ".join(error.unused_tokens or ())
    verb = " ".join(("tidings", *(error.command_chain or ())))
    return CycloptsPanel(
        f"Left over: {left}. An argument with spaces or double quotes needs single quotes around it;"
        f" {verb} --help says which there are."
    )


def _open_closed_streams() -> None:
    """Opens what the caller has closed (`>&-`): Python has None for it, and a socket might get its number."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  # for as long as the process lives
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _silence_output() -> None:
    """Points standard output at nothing, so that the interpreter's last flush does not fail again."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
