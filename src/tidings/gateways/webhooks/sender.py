"""One webhook at work: a conversation attached to its subscription, and as many posters as it may have requests.

A 2xx acks the message. Anything else, and no answer in time, gives it back as failed, and the subscription's policy
says when it is tried again and when it becomes a dead letter; Retry-After is a delay that the answer asks for.
410 Gone disables the webhook, as Standard Webhooks has it; the message goes back and counts no attempt.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

import h11
import msgspec

from tidings import limits
from tidings.broker import effects, inputs
from tidings.calls import DisableWebhook
from tidings.errors import TidingsError
from tidings.gateways import cloudevents
from tidings.gateways.messages import gap_entry, message_entry
from tidings.gateways.webhooks.addresses import Network
from tidings.gateways.webhooks.poster import Answer, Poster, Unreachable
from tidings.gateways.webhooks.signing import signed_headers
from tidings.model import JSON, Failure, Webhook, epoch_of
from tidings.node import Attachment, Conversation, Delivery, Node, open_conversation

PROTOCOL: Final = "webhook"
_AGAIN_S: Final = 5.0  # until a subscription that cannot be attached is tried again
_ACK_MARGIN_MS: Final = 10_000  # beyond a request's own time, before its message would be delivered again

_log: Final = logging.getLogger("tidings.gateways.webhooks")


async def run_webhook(node: Node, webhook: Webhook, networks: Sequence[Network], now_s: Callable[[], int]) -> None:
    """Posts what a webhook's subscription is delivered, until it is cancelled, the node ends, or the URL is gone."""
    is_gone = False
    while not is_gone:
        try:
            await _attached(node, webhook, networks, now_s)
        except* _Gone:
            is_gone = True
            _log.warning("webhook %s is disabled: %s is gone", webhook.name, webhook.url)
        except* TidingsError as group:
            _log.warning("webhook %s: %s", webhook.name, group.exceptions[0])
            await asyncio.sleep(_AGAIN_S)


async def _attached(node: Node, webhook: Webhook, networks: Sequence[Network], now_s: Callable[[], int]) -> None:
    conversation = await open_conversation(node, client_id=None, protocol=PROTOCOL, address=webhook.url)
    try:
        attachment = await conversation.subscribe(_wanted(webhook))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(webhook.concurrency):
                tasks.create_task(_Sender(webhook, conversation, attachment, networks, now_s).run())
    finally:
        conversation.close(reason="the webhook stops")


def _wanted(webhook: Webhook) -> inputs.Subscribe:
    earliest = webhook.start == "earliest"
    return inputs.Subscribe(
        queue=webhook.queue,
        event=webhook.event,
        name=webhook.name,
        # The moment at which it was made, and not that of its first connection, is where it begins.
        start="earliest" if earliest else "time",
        start_value=0 if earliest else webhook.created,
        in_flight_max=webhook.concurrency,
        concurrency=webhook.concurrency,
        ack_timeout_ms=webhook.timeout_ms + _ACK_MARGIN_MS,
    )


class _Sender:
    """One request after another."""

    def __init__(
        self,
        webhook: Webhook,
        conversation: Conversation,
        attachment: Attachment,
        networks: Sequence[Network],
        now_s: Callable[[], int],
    ) -> None:
        self._webhook = webhook
        self._conversation = conversation
        self._attachment = attachment
        self._poster = Poster(webhook.url, networks, webhook.timeout_ms)
        self._now_s = now_s

    async def run(self) -> None:
        """Posts until the subscription ends."""
        try:
            while True:
                await self._send(await self._attachment.next())
        finally:
            self._poster.close()

    async def _send(self, item: Delivery | effects.Gap) -> None:
        if isinstance(item, effects.Gap):
            place = (item.epoch, item.first_sequence, item.last_sequence)
            id = f"{self._webhook.name}-gap-{epoch_of(item.epoch):x}-{item.first_sequence}"
        else:
            place = (item.epoch, item.sequence, item.sequence)
            id = f"{self._webhook.name}-{epoch_of(item.epoch):x}-{item.sequence}"
        headers, body = _spell(self._webhook, item)
        failure, delay_ms = await self._post(id, headers, body)
        if failure is None:
            self._attachment.ack_soon([place])
        else:
            await self._attachment.nack([place], delay_ms=delay_ms, failure=failure)

    async def _post(self, id: str, headers: dict[str, str], body: bytes) -> tuple[Failure | None, int | None]:
        """Returns why it failed (None if it did not), and after how long to try again if the answer says so.

        Raises:
            _Gone: the URL is, and the webhook is disabled.
        """
        # An id is printable ASCII, whatever the subscription's name is (RFC 9110, section 5.5).
        id = "".join(character if "!" <= character <= "~" else f"%{ord(character):x}" for character in id)
        said = [
            *headers.items(),
            ("user-agent", "tidings"),
            *signed_headers(self._webhook.secret, id, self._now_s(), body),
        ]
        place = f"POST {self._webhook.url}"
        try:
            async with asyncio.timeout(self._webhook.timeout_ms / 1000):
                answer = await self._poster.post(said, body)
        except TimeoutError:
            return Failure("TimedOut", f"no answer within {self._webhook.timeout_ms} ms", place), None
        except (Unreachable, OSError, h11.ProtocolError) as error:
            return Failure(type(error).__name__, str(error)[: limits.FAILURE_TEXT_LENGTH_MAX], place), None
        if 200 <= answer.status < 300:
            return None, None
        if answer.status == HTTPStatus.GONE:
            await self._disable(answer)
        return Failure(_named(answer), answer.text, place), _delay_ms(answer)

    async def _disable(self, answer: Answer) -> None:
        reason = f"{_named(answer)}: {answer.text}" if answer.text else _named(answer)
        try:
            await self._conversation.call(DisableWebhook(name=self._webhook.name, url=self._webhook.url, reason=reason))
        except TidingsError as error:
            # Then it is a failed attempt, as any other answer: it is tried again, and may be disabled then.
            _log.warning("webhook %s could not be disabled: %s", self._webhook.name, error)
        else:
            raise _Gone


class _Gone(Exception):
    """The URL of a webhook is gone."""


def _spell(webhook: Webhook, item: Delivery | effects.Gap) -> tuple[dict[str, str], bytes]:
    """Returns the headers that describe a body, and the body."""
    if webhook.cloudevents == "binary":
        return cloudevents.binary_event(item)
    if webhook.cloudevents == "structured":
        return {"content-type": cloudevents.STRUCTURED}, msgspec.json.encode(cloudevents.event_entry(item))
    entry = {"gap": gap_entry(item)} if isinstance(item, effects.Gap) else message_entry(item)
    return {"content-type": JSON}, msgspec.json.encode(entry)


def _named(answer: Answer) -> str:
    try:
        return f"HTTP {answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        return f"HTTP {answer.status}"


def _delay_ms(answer: Answer) -> int | None:
    if answer.status in (429, 503) and answer.retry_after_s is not None:
        return answer.retry_after_s * 1000
    return None
