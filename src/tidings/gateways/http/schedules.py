"""Schedules over HTTP: what is published later. Messages are scheduled where they are published."""

from typing import Any, cast

import msgspec
from litestar import delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from tidings.calls import CancelSchedule, ListSchedules
from tidings.gateways.http.clients import After
from tidings.gateways.http.door import Door
from tidings.model import ScheduledInfo


class SchedulePage(msgspec.Struct, frozen=True):
    """Scheduled messages, the next ones first; `after` continues the page, "" ends it."""

    schedules: list[ScheduledInfo]
    after: str


@get("/schedules", tags=["schedules"], summary="List scheduled messages")
async def list_schedules(door: NamedDependency[Door], after: After = "") -> SchedulePage:
    """A message is scheduled with the headers Tidings-Delay, Tidings-At and Tidings-Every of a publish."""
    found = cast("list[ScheduledInfo]", await _call(door, ListSchedules(after=after)))
    return SchedulePage(found, found[-1].handle if found else "")


@delete("/schedules/{handle:str}", tags=["schedules"], summary="Take a scheduled message back")
async def cancel_schedule(door: NamedDependency[Door], handle: FromPath[str]) -> None:
    """One that recurs is ended."""
    await _call(door, CancelSchedule(handle=handle))


async def _call(door: Door, call: Any) -> object:
    return await (await door.clerk()).call(call)


HANDLERS = [list_schedules, cancel_schedule]
