"""Webhooks over HTTP: made, changed, looked at and deleted; what posts is `gateways/webhooks`."""

import secrets
from typing import Final, Literal

import msgspec
from litestar import Response, delete, get, put
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath

from tidings import calls, limits
from tidings.errors import NotFound
from tidings.gateways.http.bodies import AnyRequest, read_struct
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.http.reference import takes_struct
from tidings.gateways.messages import iso_time
from tidings.model import WEBHOOK_KEY_BYTES, PutWebhookInfo, WebhookInfo, spell_webhook_secret


class WantedWebhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a webhook posts where. A new one without a `secret` is given one, which its answer alone tells."""

    url: str
    queue: str
    event: str = "#"
    start: Literal["latest", "earliest"] = msgspec.field(name="from", default="latest")
    secret: str | None = None
    concurrency: int = limits.WEBHOOK_CONCURRENCY
    timeout_ms: int = limits.WEBHOOK_TIMEOUT_MS
    cloudevents: Literal["structured", "binary"] | None = None


class WebhookEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A webhook. Its subscription has the same name: how far it is behind, and what failed, is told there.

    `disabled` says why nothing is posted any more, until it is put again.
    """

    name: str
    url: str
    queue: str
    event: str
    concurrency: int
    timeout_ms: int
    created: str
    cloudevents: Literal["structured", "binary"] | None = None
    disabled: str | None = None
    secret: str | None = None


_MADE: Final = {201: ResponseSpec(WebhookEntry, description="It was made.", generate_examples=False)}


@put(
    "/webhooks/{name:str}",
    tags=["webhooks"],
    summary="Make or change a webhook",
    opt=takes_struct(WantedWebhook),
    responses=_MADE,
)
async def put_webhook(request: AnyRequest, door: NamedDependency[Door], name: FromPath[str]) -> Response[WebhookEntry]:
    """Posts what the durable subscription NAME is delivered to a URL; the subscription is made if there is none."""
    data = await read_struct(request, WantedWebhook)
    name = decode_segment(name)
    clerk = await door.clerk()
    fresh = spell_webhook_secret(secrets.token_bytes(WEBHOOK_KEY_BYTES)) if data.secret is None else None
    info = await clerk.call(
        calls.PutWebhook(
            name=name,
            url=data.url,
            queue=data.queue,
            event=data.event,
            start=data.start,
            secret=data.secret,
            fresh_secret=fresh,
            concurrency=data.concurrency,
            timeout_ms=data.timeout_ms,
            cloudevents=data.cloudevents,
        )
    )
    assert isinstance(info, PutWebhookInfo)
    return Response(_entry(info, fresh if info.is_new else None), status_code=201 if info.is_new else 200)


@get("/webhooks", tags=["webhooks"], summary="List webhooks")
async def list_webhooks(door: NamedDependency[Door]) -> list[WebhookEntry]:
    """Lists webhooks in the order of their names, without their secrets."""
    return [_entry(webhook.info()) for _, webhook in sorted(door.node.webhooks().items())]


@get("/webhooks/{name:str}", tags=["webhooks"], summary="Look at a webhook")
async def get_webhook(door: NamedDependency[Door], name: FromPath[str]) -> WebhookEntry:
    """Tells of a webhook what there is to tell, but its secret."""
    webhook = door.node.webhooks().get(decode_segment(name))
    if webhook is None:
        raise NotFound(f"there is no webhook {decode_segment(name)!r}")
    return _entry(webhook.info())


@delete("/webhooks/{name:str}", tags=["webhooks"], summary="Delete a webhook")
async def delete_webhook(door: NamedDependency[Door], name: FromPath[str]) -> None:
    """Ends a webhook. Its subscription stays, and keeps what was not delivered until it is deleted, too."""
    clerk = await door.clerk()
    await clerk.call(calls.DeleteWebhook(name=decode_segment(name)))


def _entry(info: WebhookInfo, secret: str | None = None) -> WebhookEntry:
    return WebhookEntry(
        name=info.name,
        url=info.url,
        queue=info.queue,
        event=info.event,
        concurrency=info.concurrency,
        timeout_ms=info.timeout_ms,
        created=iso_time(info.created),
        cloudevents=info.cloudevents,
        disabled=info.disabled or None,
        secret=secret,
    )


HANDLERS = [put_webhook, list_webhooks, get_webhook, delete_webhook]
