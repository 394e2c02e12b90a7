"""Webhooks: to which URLs is posted what which subscription is delivered.

1. A webhook has the name of its subscription, which it makes as anybody would who subscribes.
2. What it reads cannot be changed, how it posts can. Deleted, its subscription stays.
3. Who posts is told of a change once it is durable.
4. One whose URL is gone is disabled: it stays, says why, keeps what was not delivered, and is at work again once it is
   put again.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import urlsplit

import msgspec

from tidings import limits
from tidings.broker.answers import answered_when_durable
from tidings.broker.effects import Answered, WebhooksChanged
from tidings.broker.filters import Filter
from tidings.broker.ledger import Answer
from tidings.broker.records import WebhookItem
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.broker.subscription_options import check_same
from tidings.calls import DeleteWebhook, DisableWebhook, ListWebhooks, PutWebhook
from tidings.errors import InvalidOption, LimitReached, NotFound, SubscriptionConflict
from tidings.model import WEBHOOK_SECRET_PREFIX, PutWebhookInfo, Webhook, WebhookInfo, check_label

_PAGE: Final = 100


class Webhooks:
    """The rules of webhooks, on the broker's state."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state

    def put(self, session: Session, request: int, call: PutWebhook) -> None:
        """Makes a webhook, or changes it.

        Raises:
            InvalidName, InvalidFilter, InvalidOption: it can never work like that.
            SubscriptionConflict: there is one of the name, or a subscription, that reads something else.
            LimitReached: there are too many.
        """
        state = self._state
        check_label(call.name, "webhook name")
        chosen = Filter(call.queue, call.event)
        check_url(call.url)
        _check_range("concurrency", call.concurrency, 1, limits.WEBHOOK_CONCURRENCY_MAX)
        _check_range("timeout_ms", call.timeout_ms, 100, limits.WEBHOOK_TIMEOUT_MS_MAX)
        former = state.webhooks.get(call.name)
        secret = former.secret if former else call.fresh_secret
        if call.secret is not None:
            secret = call.secret
        if secret is None:
            raise InvalidOption('a new webhook needs a secret: "whsec_" and 24 to 64 random bytes in Base64')
        _check_secret(secret)
        if former is None and len(state.webhooks) >= limits.WEBHOOKS_MAX:
            raise LimitReached(f"there are {limits.WEBHOOKS_MAX} webhooks, no more are allowed; delete some")
        if former is not None and (former.queue, former.event) != (call.queue, call.event):
            raise SubscriptionConflict(
                f"webhook {call.name!r} reads {former.queue}/{former.event}, not {call.queue}/{call.event};"
                " use another name"
            )
        subscription = state.subscriptions.get(call.name)
        if subscription is not None:
            check_same(subscription, chosen, client_id=None, shared=False)
        webhook = Webhook(
            name=call.name,
            url=call.url,
            queue=call.queue,
            event=call.event,
            start=former.start if former else call.start,
            secret=secret,
            concurrency=call.concurrency,
            timeout_ms=call.timeout_ms,
            created=former.created if former else state.now_ms,
            cloudevents=call.cloudevents,
        )
        self._keep(webhook)
        info = PutWebhookInfo(**msgspec.structs.asdict(webhook.info()), is_new=former is None)
        self._answer(session, request, info)

    def disable(self, session: Session, request: int, call: DisableWebhook) -> None:
        """Lets a webhook rest, unless it was changed meanwhile to post elsewhere.

        Raises:
            NotFound: there is none of the name.
        """
        webhook = self._find(call.name)
        if webhook.url == call.url:
            reason = call.reason[: limits.FAILURE_TEXT_LENGTH_MAX] or "no reason was given"
            self._keep(msgspec.structs.replace(webhook, disabled=reason))
        self._answer(session, request, None)

    def delete(self, session: Session, request: int, call: DeleteWebhook) -> None:
        """Ends a webhook.

        Raises:
            NotFound: there is none of the name.
        """
        webhook = self._find(call.name)
        del self._state.webhooks[call.name]
        self._state.ledger.deleted(WebhookItem(webhook).key, self._state.now_ms)
        self._answer(session, request, None)

    def page(self, session: Session, request: int, call: ListWebhooks) -> None:
        """Lists webhooks, in the order of their names."""
        names = sorted(name for name in self._state.webhooks if name > call.after)[:_PAGE]
        infos = [self._state.webhooks[name].info() for name in names]
        self._state.effects.append(Answered(session.connection, request, infos))

    def _find(self, name: str) -> Webhook:
        webhook = self._state.webhooks.get(name)
        if webhook is None:
            raise NotFound(f"there is no webhook {name!r}; `tidings webhooks` lists them")
        return webhook

    def _keep(self, webhook: Webhook) -> None:
        self._state.webhooks[webhook.name] = webhook
        self._state.changed(WebhookItem(webhook))

    def _answer(self, session: Session, request: int, info: WebhookInfo | None) -> None:
        answered_when_durable(self._state, session.connection, request, info)
        self._tell_when_durable()

    def _tell_when_durable(self) -> None:
        def reached() -> None:
            self._state.effects.append(WebhooksChanged())

        self._state.ledger.when_durable(Answer(reached, lambda reason, full: self._tell_when_durable()))


def check_url(url: str) -> None:
    """Checks that a webhook can be posted to a URL.

    Raises:
        InvalidOption: it is not one of HTTP, or has what does not belong there.
    """
    try:
        parts = urlsplit(url)
        fits = len(url) <= limits.WEBHOOK_URL_LENGTH_MAX and url.isascii() and url.isprintable() and " " not in url
        fits = fits and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        fits = fits and not parts.username and not parts.password and not parts.fragment
    except ValueError:
        fits = False
    if not fits:
        raise InvalidOption(
            f"{url[:80]!r} is no URL for a webhook; write https://HOST/PATH in ASCII, without a user or a fragment,"
            f" and up to {limits.WEBHOOK_URL_LENGTH_MAX} characters"
        )


def _check_secret(secret: str) -> None:
    try:
        size = len(base64.b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not secret.startswith(WEBHOOK_SECRET_PREFIX) or not 24 <= size <= 64:
        raise InvalidOption(f'a secret is "{WEBHOOK_SECRET_PREFIX}" and 24 to 64 bytes in Base64')


def _check_range(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidOption(f"{what} is {value}; it can be {least} to {most}")
