"""`tidings publish`: one message from the command line, or one per line of standard input."""

from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from tidings.cli import publish_lines
from tidings.cli.options import SERVER_DEFAULT, Server, connect, parse_headers, parse_time, run_async
from tidings.cli.output import print_json
from tidings.errors import InvalidOption, InvalidPayload
from tidings.model import JSON, Confirm

TEXT: Final = "text/plain; charset=utf-8"

PAYLOAD_HELP: Final = (
    "JSON. `-` publishes one message per line of standard input, skips empty lines, and ends with a summary."
)
TEXT_HELP: Final = "The payload (with `-`: each line) is plain text, not JSON."
ID_HELP: Final = "Its id: a queue that has seen it within 10 minutes does not store the message again."
KEY_HELP: Final = "What the message is about: those of one key reach a shared subscription one after another."
HEADER_HELP: Final = "A header of the message; repeatable."
DELAY_HELP: Final = "Publish it after so many seconds."
AT_HELP: Final = (
    "Publish it at a time such as `2026-01-31T08:00:00Z`; without an offset it is this machine's local time."
)
TTL_HELP: Final = "Do not deliver it any more after so many seconds."
EVERY_HELP: Final = "Publish it again and again, so many seconds apart; at least 1."


def publish(
    queue: Annotated[str, Parameter(help="Queue to publish into; it exists from its first message on.")],
    event: Annotated[str, Parameter(help="Name of the message's kind, such as `created`.")],
    payload: Annotated[str, Parameter(help=PAYLOAD_HELP, allow_leading_hyphen=True)] = "null",
    /,
    *,
    text: Annotated[bool, Parameter(help=TEXT_HELP, show_default=False)] = False,
    id: Annotated[str | None, Parameter(help=ID_HELP, metavar="ID")] = None,
    key: Annotated[str | None, Parameter(help=KEY_HELP, metavar="KEY")] = None,
    header: Annotated[tuple[str, ...], Parameter(help=HEADER_HELP, metavar="NAME=VALUE", show_default=False)] = (),
    delay: Annotated[float | None, Parameter(help=DELAY_HELP, metavar="SECONDS")] = None,
    at: Annotated[str | None, Parameter(help=AT_HELP, metavar="TIME")] = None,
    every: Annotated[float | None, Parameter(help=EVERY_HELP, metavar="SECONDS")] = None,
    ttl: Annotated[float | None, Parameter(help=TTL_HELP, metavar="SECONDS")] = None,
    server: Server = SERVER_DEFAULT,
) -> int:
    """Publish a message and print its confirm as JSON, once it is on disk.

    With --delay, --at or --every the server publishes it later; the `handle` in the confirm is for
    `tidings schedules cancel`.

    For example:

        tidings publish orders created '{"id": 7, "total": 12.5}'
        tidings publish notes written --text "no JSON here"
        tidings publish lines read - < events.ndjson
        tidings publish reminders due '{"invoice": 7}' --delay 3600
    """
    headers = parse_headers(header)
    later = {"delay": delay, "at": None if at is None else parse_time(at, "--at"), "every": every}
    options = {"headers": headers, "id": id, "key": key, **later, "ttl": ttl}
    if payload == "-":
        if any(value is not None for value in options.values()):
            names = ", ".join("--" + name.removesuffix("s") for name in options)
            raise InvalidOption(f"{names} are for one message; leave them out with -")
        return run_async(publish_lines.run(server, queue, event, content_type=TEXT if text else JSON))
    data = encode_text(payload) if text else encode_json(payload)
    options["content_type"] = TEXT if text else JSON
    print_json(run_async(_publish_one(server, queue, event, data, options)))
    return 0


async def _publish_one(server: str, queue: str, event: str, data: bytes, options: dict[str, Any]) -> Confirm:
    async with connect(server) as client:
        return await client.publish(queue, event, data, **options)


def encode_text(payload: str) -> bytes:
    """Returns the bytes of an argument.

    Raises:
        InvalidPayload: the shell was given bytes that are not UTF-8.
    """
    try:
        return payload.encode()
    except UnicodeEncodeError:  # bytes of another encoding arrive from the shell as lone surrogates
        raise InvalidPayload("the payload is not valid UTF-8") from None


def encode_json(payload: str) -> bytes:
    """Returns the bytes of an argument that is JSON.

    Raises:
        InvalidPayload: it is not.
    """
    data = encode_text(payload)
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPayload(
            f"the payload is not valid JSON: {error}. In a shell, put JSON in single quotes: '{{\"id\": 7}}' for an"
            " object, '\"words\"' for a string; or add --text to publish plain text"
        ) from None
    return data
