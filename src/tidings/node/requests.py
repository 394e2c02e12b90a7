"""Requests: a message is published, and its client waits for the reply, in one conversation."""

import asyncio

from tidings import limits
from tidings.broker import effects, inputs
from tidings.calls import AwaitReply, Respond
from tidings.errors import InvalidOption, TimedOut, Unanswered
from tidings.model import REPLY_TO, ReplyInfo
from tidings.node.conversation import Conversation
from tidings.node.drafts import Draft, batches


class Request:
    """A request that is published. Made with `begin_request`."""

    def __init__(
        self,
        conversation: Conversation,
        address: str,
        place: str,
        deadline_s: float,
        waiting: "asyncio.Future[object]",
        confirming: "asyncio.Future[effects.Confirm]",
    ) -> None:
        self._conversation = conversation
        self._address = address
        self._place = place
        self._deadline_s = deadline_s
        self._waiting = waiting
        self._confirming = confirming

    async def reply(self) -> ReplyInfo:
        """Waits for the reply; to be awaited once. When cancelled, the message may be stored, and handled.

        Raises:
            Unanswered: no subscription wants the message. It is stored all the same.
            TimedOut: no reply came in time. The message may be handled, or still wait to be.
            TidingsError: the message was refused, or the conversation has ended.
        """
        info: object = None
        try:
            async with asyncio.timeout_at(self._deadline_s):
                confirm = await self._confirming
                if not confirm.subscriptions[0] and not self._waiting.done():
                    raise Unanswered(
                        f"no subscription wants {self._place}, so nobody will answer message {confirm.first_sequence}"
                    )
                info = await self._waiting
        except TimeoutError:
            pass  # told below, as when the node says that the time is over
        finally:
            _give_up(self._conversation, self._address, self._waiting)
        if info is None:
            raise TimedOut(f"no reply to {self._place} in time; it may still be handled")
        assert isinstance(info, ReplyInfo), "what is awaited is a reply"
        return info


async def begin_request(conversation: Conversation, queue: str, draft: Draft, *, address: str, wait_ms: int) -> Request:
    """Publishes a request as soon as the node has room, in the order of the calls and of other publishes.

    Args:
        conversation: whose request it is.
        queue: where it is published.
        draft: the message.
        address: where its reply goes, which nobody else can guess.
        wait_ms: how long the reply may take.

    Raises:
        InvalidOption, InvalidName, PayloadTooLarge: nothing was published.
    """
    if not 1 <= wait_ms <= limits.REPLY_WAIT_MS_MAX:
        raise InvalidOption(f"a wait of {wait_ms} ms for a reply; it can be 1 to {limits.REPLY_WAIT_MS_MAX}")
    [batch] = batches([draft._replace(headers={**(draft.headers or {}), REPLY_TO: address})])
    deadline_s = asyncio.get_running_loop().time() + wait_ms / 1000
    waiting = asyncio.ensure_future(conversation.call(AwaitReply(address=address, wait_ms=wait_ms)))
    try:
        await asyncio.sleep(0)  # so that the node waits for the reply before it has the request
        confirming = await conversation.publish_batch(queue, batch)
    except BaseException:
        _give_up(conversation, address, waiting)
        raise
    return Request(conversation, address, f"{queue}/{draft.event}", deadline_s, waiting, confirming)


def respond_soon(conversation: Conversation, address: str, payload: bytes, content_type: str) -> None:
    """Sends a reply to an address, without waiting whether somebody takes it."""
    call = Respond(address=address, payload=payload, content_type=content_type)
    conversation.submit(inputs.Call(conversation.connection, 0, call))


def _give_up(conversation: Conversation, address: str, waiting: "asyncio.Future[object]") -> None:
    """Lets nobody wait for a reply that is not wanted any more, so that who responds late hears of it."""
    if not waiting.done():
        waiting.cancel()
        conversation.submit(inputs.Call(conversation.connection, 0, AwaitReply(address=address, wait_ms=0)))
    elif not waiting.cancelled():
        waiting.exception()  # the refusal of the request itself was raised, or the end of the conversation
