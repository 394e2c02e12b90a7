"""The verbs of webhooks: what a subscription is delivered is posted to a URL by the server."""

import secrets
from typing import Literal

from tidings import calls, limits
from tidings.client.options import Seconds, milliseconds
from tidings.client.requests import Requests
from tidings.model import WEBHOOK_KEY_BYTES, PutWebhookInfo, WebhookInfo, spell_webhook_secret


class Webhooks(Requests):
    """The verbs of webhooks."""

    async def put_webhook(
        self,
        name: str,
        url: str,
        queue: str,
        event: str | None = None,
        *,
        secret: str | None = None,
        start: Literal["latest", "earliest"] = "latest",
        concurrency: int = limits.WEBHOOK_CONCURRENCY,
        cloudevents: Literal["structured", "binary"] | None = None,
        request_timeout: Seconds = limits.WEBHOOK_TIMEOUT_MS / 1000,
        timeout: float | None = 30.0,
    ) -> str | None:
        """Has the server post messages to a URL, or changes how it does; durable on return.

        They are those of the durable subscription `name`, which is made if there is none. A 2xx answer acks a message;
        whatever else comes of it is a failed attempt. Requests are signed as Standard Webhooks has it. One that was
        disabled, since its URL answered 410 Gone, is at work again.

        Args:
            name: the webhook's and its subscription's name.
            url: where to; addresses that are not of the internet must be allowed by the server.
            queue: a queue's name or a pattern.
            event: an event's name or a pattern; None for all.
            secret: what signs, "whsec_" and 24 to 64 bytes in Base64; None makes one for a new webhook.
            start: where a new one begins.
            concurrency: most requests under way, 1 to 64.
            cloudevents: as which form of CloudEvents messages are posted; None for JSON as over HTTP.
            request_timeout: seconds or timedelta that a request may take, 0.1 s to 5 min.
            timeout: time limit in seconds.

        Returns:
            The secret, if it was made here; no other call tells it.

        Raises:
            InvalidName, InvalidFilter, InvalidOption: it can never work like that.
            SubscriptionConflict: there is a webhook of the name that reads something else.
            StoreUnavailable, TimedOut: it may be there.
        """
        request_timeout_ms = milliseconds(request_timeout, "request_timeout") or 0
        # Whether it is new is for the server to say: of two who make the same one, one is told its secret.
        fresh = spell_webhook_secret(secrets.token_bytes(WEBHOOK_KEY_BYTES)) if secret is None else None
        info: PutWebhookInfo = await self._call(
            calls.PutWebhook(
                name=name,
                url=url,
                queue=queue,
                event="#" if event is None else event,
                secret=secret,
                fresh_secret=fresh,
                start=start,
                concurrency=concurrency,
                timeout_ms=request_timeout_ms,
                cloudevents=cloudevents,
            ),
            timeout,
        )
        return fresh if info.is_new else None

    async def webhooks(self, *, timeout: float | None = 30.0) -> list[WebhookInfo]:
        """Returns all webhooks, without their secrets, in the order of their names."""
        infos: list[WebhookInfo] = []
        while page := await self._webhooks_after(infos[-1].name if infos else "", timeout):
            infos += page
        return infos

    async def _webhooks_after(self, after: str, timeout: float | None) -> list[WebhookInfo]:
        page: list[WebhookInfo] = await self._call(calls.ListWebhooks(after=after), timeout)
        return page

    async def delete_webhook(self, name: str, *, timeout: float | None = 30.0) -> None:
        """Ends a webhook; durable on return. Its subscription stays, and keeps what was not delivered.

        Raises:
            NotFound: there is none.
            StoreUnavailable, TimedOut: it may have ended.
        """
        await self._call(calls.DeleteWebhook(name=name), timeout)
