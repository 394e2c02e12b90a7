"""`tidings redrive`: dead letters go to their subscription again."""

from typing import Annotated, Final

from cyclopts import Parameter

from tidings.cli.dead_letters import SUBSCRIPTION_HELP
from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, run_async
from tidings.cli.output import count, print_json, printable
from tidings.errors import InvalidOption, NotFound

FINGERPRINT_HELP: Final = "Only those that failed in this way; `tidings dead-letters` shows it."
SEQUENCE_HELP: Final = "Only the message that had this sequence in its queue."
RATE_HELP: Final = "Messages a second; without it, as fast as it goes."


def redrive(
    subscription: Annotated[str, Parameter(help=SUBSCRIPTION_HELP)],
    /,
    *,
    fingerprint: Annotated[str | None, Parameter(metavar="F", help=FINGERPRINT_HELP)] = None,
    number: Annotated[int | None, Parameter(metavar="N", help="Only the dead letter of this number.")] = None,
    sequence: Annotated[int | None, Parameter(metavar="N", help=SEQUENCE_HELP)] = None,
    rate: Annotated[float | None, Parameter(metavar="R", help=RATE_HELP)] = None,
    json: Json = False,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Send dead letters to their subscription again, and to no other: all of them, or those that are chosen.

    They begin with attempt 1, as new messages of that subscription.

    For example:

        tidings redrive billing
        tidings redrive billing --fingerprint 5c8f6f3a --rate 50
        tidings redrive billing --sequence 42
    """
    if [fingerprint, number, sequence].count(None) < 2:
        raise InvalidOption("--fingerprint, --number and --sequence choose in three ways; take one, or none for all")
    if rate is not None and rate <= 0:
        raise InvalidOption(f"--rate {rate:g}: write more than 0, or leave it out for as fast as it goes")
    redriven = run_async(_redrive(server, subscription, fingerprint, number, sequence, rate))
    if json:
        print_json({"subscription": subscription, "redriven": redriven})
    else:
        print(f"redriving {count(redriven, 'dead letter')} of {printable(subscription)}")


async def _redrive(
    server: str, name: str, fingerprint: str | None, number: int | None, sequence: int | None, rate: float | None
) -> int:
    async with connect(server) as client:
        if sequence is not None:
            found = [letter async for letter in client.dead_letters(name) if letter.sequence == sequence]
            if not found:
                raise NotFound(f"subscription {name!r} has no dead letter of sequence {sequence}")
            if len(found) > 1:
                # Sequences of several queues, or of what was redriven and failed again.
                choices = ", ".join(f"{letter.number} (queue {letter.queue}, epoch {letter.epoch})" for letter in found)
                raise InvalidOption(f"sequence {sequence} is that of several dead letters; take --number: {choices}")
            number = found[0].number
        return await client.redrive(name, number=number, fingerprint=fingerprint, rate=rate)
