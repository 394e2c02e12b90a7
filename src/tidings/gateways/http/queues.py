"""Queues over HTTP: listed, made, configured, paused and deleted."""

from typing import Final

import msgspec
from litestar import Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath

from tidings.calls import ConfigureQueue, Pause
from tidings.gateways.http.bodies import AnyRequest, read_struct
from tidings.gateways.http.clients import After
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.http.listings import queue_info
from tidings.gateways.http.reference import takes_struct
from tidings.gateways.http.tags import IfMatch, etag, wanted_tag
from tidings.model import QueueInfo

_SETTINGS: Final = takes_struct(ConfigureQueue, without=("name", "if_match"), required=False)


class QueuePage(msgspec.Struct, frozen=True):
    """A page of queues; `after` continues it, "" ends it."""

    queues: list[QueueInfo]
    after: str


@get("/queues", tags=["queues"], summary="List queues")
async def list_queues(door: NamedDependency[Door], after: After = "") -> QueuePage:
    """Those of the server itself are among them."""
    page = await (await door.clerk()).list("queues", after)
    return QueuePage([info for info in page.entries if isinstance(info, QueueInfo)], page.after)


@get("/queues/{queue:str}", tags=["queues"], summary="Look at a queue")
async def get_queue(door: NamedDependency[Door], queue: FromPath[str]) -> Response[QueueInfo]:
    """What it holds, what was asked of it, and which subscription holds it back from being trimmed."""
    return _told(await queue_info(await door.clerk(), decode_segment(queue)))


@put("/queues/{queue:str}", status_code=200, tags=["queues"], summary="Make a queue, or configure it", opt=_SETTINGS)
async def put_queue(
    request: AnyRequest, door: NamedDependency[Door], queue: FromPath[str], if_match: IfMatch = None
) -> Response[QueueInfo]:
    """A queue exists from its first use; this is one. What is left out stays as it is, null is no limit."""
    return await _configure(request, door, decode_segment(queue), if_match)


@patch("/queues/{queue:str}", tags=["queues"], summary="Configure a queue", opt=_SETTINGS)
async def patch_queue(
    request: AnyRequest, door: NamedDependency[Door], queue: FromPath[str], if_match: IfMatch = None
) -> Response[QueueInfo]:
    """As PUT, of a queue that is there. With If-Match only if nobody changed its settings in between (412)."""
    name = decode_segment(queue)
    await queue_info(await door.clerk(), name)
    return await _configure(request, door, name, if_match)


async def _configure(request: AnyRequest, door: Door, name: str, if_match: str | None) -> Response[QueueInfo]:
    clerk = await door.clerk()
    await clerk.call(await read_struct(request, ConfigureQueue, name=name, if_match=wanted_tag(if_match)))
    return _told(await queue_info(clerk, name))


def _told(info: QueueInfo) -> Response[QueueInfo]:
    return Response(info, headers=etag(ConfigureQueue, info.settings))


@delete("/queues/{queue:str}", tags=["queues"], summary="Delete a queue and all it holds")
async def delete_queue(door: NamedDependency[Door], queue: FromPath[str], if_match: IfMatch = None) -> None:
    """Subscriptions are told what they had not got as a gap.

    With If-Match only if nobody changed its settings in between (412).
    """
    await (await door.clerk()).delete("queue", decode_segment(queue), wanted_tag(if_match))


@post("/queues/{queue:str}/pause", status_code=204, tags=["queues"], summary="Pause a queue")
async def pause_queue(door: NamedDependency[Door], queue: FromPath[str]) -> None:
    """It takes messages, and delivers none until it is resumed."""
    await (await door.clerk()).call(Pause(queue=decode_segment(queue)))


@post("/queues/{queue:str}/resume", status_code=204, tags=["queues"], summary="Resume a paused queue")
async def resume_queue(door: NamedDependency[Door], queue: FromPath[str]) -> None:
    """Deliveries go on where they stopped."""
    await (await door.clerk()).call(Pause(queue=decode_segment(queue), paused=False))


HANDLERS = [list_queues, get_queue, put_queue, patch_queue, delete_queue, pause_queue, resume_queue]
