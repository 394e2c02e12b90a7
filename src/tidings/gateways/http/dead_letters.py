"""Dead letters over HTTP: looked at, corrected, deleted, and sent to their subscription again."""

from typing import Annotated, Final, cast

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from msgspec import UNSET, UnsetType

from tidings import limits
from tidings.calls import (
    Call,
    DeadLetterGroups,
    DeleteDeadLetters,
    EditDeadLetter,
    ListDeadLetters,
    Redrive,
)
from tidings.errors import NotFound
from tidings.gateways.http.bodies import AnyRequest, read_struct
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.http.reference import takes_struct
from tidings.gateways.http.tags import IfMatch, etag, wanted_tag
from tidings.gateways.messages import new_payload, payload_entry
from tidings.model import DeadLetterGroup, DeadLetterInfo

Fingerprint = Annotated[str | None, QueryParameter(description="Only those that failed like this, see groups.")]
_PATH: Final = "/subscriptions/{name:str}/dead-letters"


class FailureEntry(msgspec.Struct, frozen=True):
    """Why a handler failed; `place` is the innermost function of its own."""

    type: str
    text: str
    place: str
    traceback: str


class DeadLetterEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that was given up, for one subscription. Times are UTC milliseconds since 1970.

    `number` names it within its subscription. `reason` is attempts, rejected, ack timeout or connection lost. The
    payload is spelled as in deliveries.
    """

    number: int
    queue: str
    epoch: int
    sequence: int
    event: str
    payload: msgspec.Raw | str | UnsetType = UNSET
    payload_base64: str | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    id: str | None
    key: str | None
    headers: dict[str, str]
    published: int
    died: int
    reason: str
    attempts: int
    client_id: str | None
    fingerprint: str
    failure: FailureEntry | None
    edited: bool


class DeadLetterPage(msgspec.Struct, frozen=True):
    """Dead letters in the order of their numbers; the next page is `after` the last of them."""

    dead_letters: list[DeadLetterEntry]


class DeadLetterGroupList(msgspec.Struct, frozen=True):
    """How the dead letters of a subscription failed, the most frequent first."""

    groups: list[DeadLetterGroup]


class DeadLetterChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be different; what is left out stays. `payload` is JSON, or a string of a `content_type` text/*."""

    event: str | UnsetType = UNSET
    payload: msgspec.Raw | UnsetType = UNSET
    payload_base64: str | None = None
    content_type: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET


class Count(msgspec.Struct, frozen=True):
    """How many."""

    count: int


@get(_PATH, tags=["dead letters"], summary="List dead letters")
async def list_dead_letters(
    door: NamedDependency[Door],
    name: FromPath[str],
    after: Annotated[int, QueryParameter(description="Those with a number above this.", ge=0)] = 0,
    fingerprint: Fingerprint = None,
    count_max: Annotated[int, QueryParameter(name="max", ge=1, le=limits.DEAD_LETTERS_PAGE_COUNT)] = 100,
) -> DeadLetterPage:
    """With all they hold, and nothing of them changes."""
    call = ListDeadLetters(subscription=decode_segment(name), after=after, fingerprint=fingerprint, count_max=count_max)
    found = cast("list[DeadLetterInfo]", await _call(door, call))
    return DeadLetterPage([_entry(letter) for letter in found])


@get(f"{_PATH}/groups", tags=["dead letters"], summary="Group dead letters by how they failed")
async def group_dead_letters(door: NamedDependency[Door], name: FromPath[str]) -> DeadLetterGroupList:
    """A line for each type of error and place, as "412 times KeyError in bill() in orders.py"."""
    found = await _call(door, DeadLetterGroups(subscription=decode_segment(name)))
    return DeadLetterGroupList(cast("list[DeadLetterGroup]", found))


@get(f"{_PATH}/{{number:int}}", tags=["dead letters"], summary="Look at a dead letter")
async def get_dead_letter(
    door: NamedDependency[Door], name: FromPath[str], number: FromPath[int]
) -> Response[DeadLetterEntry]:
    """With all it holds."""
    return await _told(door, decode_segment(name), number)


@patch(
    f"{_PATH}/{{number:int}}",
    tags=["dead letters"],
    summary="Correct a dead letter before it is redriven",
    opt=takes_struct(DeadLetterChanges),
)
async def patch_dead_letter(
    request: AnyRequest,
    door: NamedDependency[Door],
    name: FromPath[str],
    number: FromPath[int],
    if_match: IfMatch = None,
) -> Response[DeadLetterEntry]:
    """The message in its queue stays as it is; this is the subscription's copy.

    With If-Match only if nobody corrected it in between (412).
    """
    subscription = decode_segment(name)
    changes = await read_struct(request, DeadLetterChanges)
    payload, content_type = await _payload(door, subscription, number, changes)
    call = EditDeadLetter(
        subscription=subscription,
        number=number,
        event=changes.event,
        payload=payload,
        content_type=content_type,
        headers=changes.headers,
        if_match=wanted_tag(if_match),
    )
    await _call(door, call)
    return await _told(door, subscription, number)


@delete(_PATH, status_code=200, tags=["dead letters"], summary="Delete all dead letters, or those of a fingerprint")
async def delete_dead_letters(
    door: NamedDependency[Door], name: FromPath[str], fingerprint: Fingerprint = None
) -> Count:
    """The messages in their queue stay."""
    call = DeleteDeadLetters(subscription=decode_segment(name), fingerprint=fingerprint)
    return Count(cast("int", await _call(door, call)))


@delete(f"{_PATH}/{{number:int}}", tags=["dead letters"], summary="Delete a dead letter")
async def delete_dead_letter(
    door: NamedDependency[Door], name: FromPath[str], number: FromPath[int], if_match: IfMatch = None
) -> None:
    """The message in its queue stays. With If-Match only if nobody corrected it in between (412)."""
    tag = wanted_tag(if_match)
    await _call(door, DeleteDeadLetters(subscription=decode_segment(name), number=number, if_match=tag))


@post(
    f"{_PATH}/redrive",
    status_code=202,
    tags=["dead letters"],
    summary="Send dead letters to their subscription again",
    opt=takes_struct(Redrive, without=("subscription",), required=False),
)
async def redrive_dead_letters(request: AnyRequest, door: NamedDependency[Door], name: FromPath[str]) -> Count:
    """One (`number`), those of a `fingerprint`, or all; at a `rate` in messages a second, or as fast as it goes."""
    call = await read_struct(request, Redrive, subscription=decode_segment(name))
    return Count(cast("int", await _call(door, call)))


async def _call(door: Door, call: Call) -> object:
    return await (await door.clerk()).call(call)


async def _told(door: Door, subscription: str, number: int) -> Response[DeadLetterEntry]:
    letter = await _letter(door, subscription, number)
    return Response(_entry(letter), headers=etag(EditDeadLetter, letter))


async def _letter(door: Door, subscription: str, number: int) -> DeadLetterInfo:
    call = ListDeadLetters(subscription=subscription, after=max(0, number - 1), count_max=1)
    found = cast("list[DeadLetterInfo]", await _call(door, call))
    if not found or found[0].number != number:
        raise NotFound(f"subscription {subscription!r} has no dead letter {number}")
    return found[0]


async def _payload(
    door: Door, subscription: str, number: int, changes: DeadLetterChanges
) -> tuple[bytes | UnsetType, str | UnsetType]:
    """Returns the new payload and content type, as far as they are to change."""
    if changes.payload is UNSET and changes.payload_base64 is None:
        return UNSET, changes.content_type
    content_type = changes.content_type
    if content_type is UNSET:
        content_type = (await _letter(door, subscription, number)).content_type
    payload, _ = new_payload(changes.payload, changes.payload_base64, content_type)
    return payload, changes.content_type


def _entry(letter: DeadLetterInfo) -> DeadLetterEntry:
    fields = msgspec.structs.asdict(letter) | {"headers": letter.headers or {}}
    del fields["payload"], fields["content_type"]
    failure = letter.failure
    fields["failure"] = failure and FailureEntry(failure.type, failure.text, failure.place, failure.traceback)
    return DeadLetterEntry(**fields, **payload_entry(letter.payload, letter.content_type))


HANDLERS = [
    list_dead_letters,
    group_dead_letters,
    get_dead_letter,
    patch_dead_letter,
    delete_dead_letters,
    delete_dead_letter,
    redrive_dead_letters,
]
