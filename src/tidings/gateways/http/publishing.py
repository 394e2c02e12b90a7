"""Publishing over HTTP: the body is the payload as it is, the rest is in headers."""

from typing import Annotated, Any

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter

from tidings import limits
from tidings.broker import effects
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.model import BYTES
from tidings.node import Draft


class Confirmed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message is stored as safely as `durability` says ("disk" is fsynced), at this place of its queue.

    `subscriptions` counts those whose filters match, connected or away. `duplicate_of` is the sequence of a message
    that the queue had stored before under the same id; then this one was not stored again.
    """

    queue: str
    sequence: int
    epoch: int
    durability: str
    subscriptions: int
    duplicate_of: int | None = None


@post("/queues/{queue:str}/events/{event:str}", status_code=201, summary="Publish a message")
async def publish(
    request: Request[Any, Any, Any],
    door: NamedDependency[Door],
    queue: FromPath[str],
    event: FromPath[str],
    message_id: Annotated[str | None, HeaderParameter(name="Tidings-Id", description="stored once in 10 min")] = None,
    key: Annotated[str | None, HeaderParameter(name="Tidings-Key", description="what keeps its order")] = None,
) -> Confirmed:
    """Stores the body, as it is, as a message; answers once that is durable.

    Headers `Tidings-Header-NAME: VALUE` become the message's headers, with NAME in lower case.
    """
    payload = await request.body()
    content_type = request.headers.get("content-type") or BYTES
    draft = Draft(decode_segment(event), payload, content_type, message_id, key, message_headers(request))
    clerk = await door.clerk()
    [confirm] = await clerk.publish(decode_segment(queue), [draft])
    return confirmed(decode_segment(queue), confirm, door.node.store.durability)


def message_headers(request: Request[Any, Any, Any]) -> dict[str, str] | None:
    """Returns a message's own headers."""
    prefix = "tidings-header-"
    found = {name[len(prefix) :]: value for name, value in request.headers.items() if name.startswith(prefix)}
    return found or None


def confirmed(queue: str, confirm: effects.Confirm, durability: str) -> Confirmed:
    """Returns what a door tells of the confirm of a single message."""
    duplicate_of = confirm.duplicates[0][1] if confirm.duplicates else None
    return Confirmed(
        queue=queue,
        sequence=confirm.first_sequence if duplicate_of is None else duplicate_of,
        epoch=confirm.epoch,
        durability=durability,
        subscriptions=confirm.subscriptions[0],
        duplicate_of=duplicate_of,
    )


HANDLERS = [publish]
BODY_BYTES_MAX = limits.PAYLOAD_SIZE_BYTES_MAX
