"""`tidings dead-letters`: what a subscription gave up and why, one by one or grouped; to edit and to delete."""

import time
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

import tidings
from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, run_async
from tidings.cli.output import (
    as_entry,
    count,
    print_entries,
    print_table,
    printable,
    printable_lines,
    relative_time,
    to_json,
)
from tidings.cli.publish import encode_json
from tidings.client import DeadLetter
from tidings.errors import InvalidOption, NotFound
from tidings.gateways.messages import iso_time, payload_entry
from tidings.model import JSON, DeadLetterGroup

SUBSCRIPTION_HELP: Final = "Name of the subscription, or the id of a client that has only one."
FINGERPRINT_HELP: Final = "Only those that failed in this way; the groups show it."
DELETE_HELP: Final = "Delete those of --fingerprint, the one of --number, or --all, for good."


def dead_letters(
    subscription: Annotated[str, Parameter(help=SUBSCRIPTION_HELP)],
    /,
    *,
    list_: Annotated[bool, Parameter(name="--list", help="One line for each.", show_default=False)] = False,
    fingerprint: Annotated[str | None, Parameter(metavar="F", help=FINGERPRINT_HELP)] = None,
    show: Annotated[int | None, Parameter(metavar="N", help="All there is about number N.")] = None,
    edit: Annotated[int | None, Parameter(metavar="N", help="Change number N before it is redriven.")] = None,
    payload: Annotated[str | None, Parameter(metavar="JSON", help="With --edit: the new payload.")] = None,
    delete: Annotated[bool, Parameter(help=DELETE_HELP, show_default=False)] = False,
    number: Annotated[int | None, Parameter(metavar="N", help="With --delete: number N.")] = None,
    all_: Annotated[bool, Parameter(name="--all", help="With --delete: all of them.", show_default=False)] = False,
    json: Json = False,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Show the dead letters of a subscription: messages that failed too often, or were rejected.

    Without an option they are grouped by how they failed. Looking changes nothing; `tidings redrive` sends them to
    the subscription again.

    For example:

        tidings dead-letters billing
        tidings dead-letters billing --list --fingerprint 5c8f6f3a
        tidings dead-letters billing --edit 7 --payload '{"id": 7, "vat": 0.19}'
        tidings dead-letters billing --delete --fingerprint 5c8f6f3a
    """
    if sum((list_, show is not None, edit is not None, delete)) > 1:
        raise InvalidOption("--list, --show, --edit and --delete are four things to do; take one")
    if (edit is None) != (payload is None):
        raise InvalidOption("--edit N and --payload JSON belong together")
    if not delete and (number is not None or all_):
        raise InvalidOption("--number and --all say what to --delete; to look at one there is --show N")
    run_async(
        _run(
            server,
            subscription,
            list_=list_ or fingerprint is not None,
            fingerprint=fingerprint,
            show=show,
            edit=(edit, encode_json(payload)) if edit is not None and payload is not None else None,
            delete=delete,
            number=number,
            all_=all_,
            json=json,
        )
    )


async def _run(
    server: str,
    name: str,
    *,
    list_: bool,
    fingerprint: str | None,
    show: int | None,
    edit: tuple[int, bytes] | None,
    delete: bool,
    number: int | None,
    all_: bool,
    json: bool,
) -> None:
    now_ms = time.time_ns() // 1_000_000
    async with connect(server) as client:
        if edit is not None:
            await client.edit_dead_letter(name, edit[0], payload=edit[1], content_type=JSON)
            print(f"changed dead letter {edit[0]} of {printable(name)}")
        elif delete:
            if [number is not None, fingerprint is not None, all_].count(True) != 1:
                raise InvalidOption("say what to --delete: --number N, --fingerprint F or --all")
            deleted = await client.delete_dead_letters(name, number=number, fingerprint=fingerprint)
            print(f"deleted {count(deleted, 'dead letter')} of {printable(name)}")
        elif show is not None:
            letter = await _find(client, name, show)
            if json:
                print_entries([dead_letter_entry(letter)])
            else:
                print_letter(letter)
        elif list_:
            letters = [letter async for letter in client.dead_letters(name, fingerprint=fingerprint)]
            if json:
                print_entries(map(dead_letter_entry, letters))
            else:
                print_letters(letters, now_ms=now_ms)
        else:
            groups = await client.dead_letter_groups(name)
            if json:
                print_entries(as_entry(group, times=("first_died", "last_died")) for group in groups)
            else:
                print_groups(groups, now_ms=now_ms)


async def _find(client: tidings.Client, name: str, number: int) -> DeadLetter:
    async for letter in client.dead_letters(name, after=number - 1, limit=1):
        if letter.number == number:
            return letter
    raise NotFound(f"subscription {name!r} has no dead letter {number}; `tidings dead-letters {name} --list` has them")


def dead_letter_entry(letter: DeadLetter) -> dict[str, Any]:
    """Returns a dead letter as JSON shows it; its payload as `tidings subscribe` prints one."""
    entry = as_entry(letter, times=("published", "died"))
    entry.pop("data")
    entry |= payload_entry(letter.data, letter.content_type)
    entry["failure"] = msgspec.structs.asdict(letter.failure) if letter.failure else None
    return entry


def print_groups(groups: list[DeadLetterGroup], *, now_ms: int) -> None:
    """Prints how dead letters failed, one line for each way."""
    rows = [
        (
            f"{group.count:,} x {group.text}",
            group.fingerprint,
            relative_time(group.first_died, now_ms),
            relative_time(group.last_died, now_ms),
            group.last_number,
        )
        for group in groups
    ]
    print_table(("failed", "fingerprint", "first", "last", "last number"), rows, empty="No dead letter.")


def print_letters(letters: list[DeadLetter], *, now_ms: int) -> None:
    """Prints dead letters as a table."""
    rows = [
        (
            letter.number,
            letter.queue,
            letter.sequence,
            letter.event,
            letter.attempts,
            letter.reason,
            _error(letter),
            relative_time(letter.died, now_ms),
            letter.fingerprint,
        )
        for letter in letters
    ]
    columns = ("number", "queue", "sequence", "event", "attempts", "reason", "error", "died", "fingerprint")
    print_table(columns, rows, empty="No dead letter.")


def print_letter(letter: DeadLetter) -> None:
    """Prints all there is about a dead letter, its traceback last."""
    facts = {
        "number": str(letter.number),
        "queue": f"{letter.queue} (epoch {letter.epoch})",
        "sequence": str(letter.sequence),
        "event": letter.event,
        "published": iso_time(letter.published),
        "died": iso_time(letter.died),
        "reason": letter.reason,
        "attempts": str(letter.attempts),
        "client": letter.client_id or "(anonymous)",
        "error": _error(letter),
        "place": letter.failure.place if letter.failure else "",
        "fingerprint": letter.fingerprint,
        "id": letter.id or "",
        "key": letter.key or "",
        "content type": letter.content_type,
        "edited": "yes" if letter.edited else "",
        **{f"header {name}": value for name, value in letter.headers.items()},
    }
    for name, value in facts.items():
        if value:
            print(f"{printable(name):<14}{printable(value)}")
    shown = payload_entry(letter.data, letter.content_type)
    text = shown.get("payload", shown.get("payload_base64"))
    print(f"\npayload\n{printable_lines(text if isinstance(text, str) else to_json(text).decode())}")
    if letter.failure and letter.failure.traceback:
        print(f"\n{printable_lines(letter.failure.traceback.rstrip())}")


def _error(letter: DeadLetter) -> str:
    failure = letter.failure
    if failure is None:
        return ""
    return f"{failure.type}: {failure.text}" if failure.text else failure.type
