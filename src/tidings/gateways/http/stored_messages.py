"""Messages of a queue over HTTP, without a subscription: peeked at, deleted one by one or all at once."""

from typing import Annotated, cast

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from msgspec import UNSET, UnsetType

from tidings import limits
from tidings.calls import DeleteMessage, Peek, Purge
from tidings.gateways.http.dead_letters import Count
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.messages import parse_start, payload_entry
from tidings.model import MessageInfo

_PATH = "/queues/{queue:str}/messages"


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message as its queue holds it. `published` is UTC milliseconds since 1970.

    The payload is spelled as in deliveries.
    """

    queue: str
    epoch: int
    sequence: int
    event: str
    payload: msgspec.Raw | str | UnsetType = UNSET
    payload_base64: str | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    id: str | None = None
    key: str | None = None
    headers: dict[str, str] = {}
    published: int


class StoredMessages(msgspec.Struct, frozen=True):
    """Messages as a queue holds them, in order."""

    messages: list[StoredMessage]


@get(_PATH, tags=["queues"], summary="Peek at messages")
async def peek(
    door: NamedDependency[Door],
    queue: FromPath[str],
    start: Annotated[
        str,
        QueryParameter(name="from", description="earliest, latest (the last ones), a sequence, a time with offset."),
    ] = "earliest",
    count_max: Annotated[int, QueryParameter(name="max", ge=1, le=limits.PEEK_COUNT_MAX)] = 10,
) -> StoredMessages:
    """As the queue holds them, settled or not. Nothing changes by it; fewer come where they are large."""
    begins, value = parse_start(start)
    call = Peek(queue=decode_segment(queue), start=begins, value=value, count_max=count_max)
    found = cast("list[MessageInfo]", await (await door.clerk()).call(call))
    return StoredMessages([_stored(info) for info in found])


@delete(f"{_PATH}/{{sequence:int}}", tags=["queues"], summary="Delete a message")
async def delete_message(door: NamedDependency[Door], queue: FromPath[str], sequence: FromPath[int]) -> None:
    """Who has it in flight may still settle it."""
    await (await door.clerk()).call(DeleteMessage(queue=decode_segment(queue), sequence=sequence))


@post("/queues/{queue:str}/purge", status_code=200, tags=["queues"], summary="Delete all messages of a queue")
async def purge(door: NamedDependency[Door], queue: FromPath[str]) -> Count:
    """The queue stays, and so do its subscriptions; they are told what they had not got as a gap."""
    return Count(cast("int", await (await door.clerk()).call(Purge(queue=decode_segment(queue)))))


def _stored(info: MessageInfo) -> StoredMessage:
    fields = msgspec.structs.asdict(info)
    del fields["payload"], fields["content_type"]
    return StoredMessage(**fields, **payload_entry(info.payload, info.content_type))


HANDLERS = [peek, delete_message, purge]
