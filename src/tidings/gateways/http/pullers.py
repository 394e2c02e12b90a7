"""Pullers: what clients hold that come and go with each request, and for how long.

1. Whoever pulls from a subscription holds it under a client id, or anonymously. All who pull from one as the same
   client are one subscriber to the broker, over whatever connections.
2. They are delivered what a request asks for and nothing ahead, see `broker.inputs.Ask`.
3. The hold is a lease. It ends PULL_LEASE_MS after the last request, or an ack timeout after it while messages are to
   be acked; when it is given back; and when another process takes over the client id. What is in flight goes back
   then, without counting an attempt.
4. What came for a request whose client is gone waits for the next one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias

import msgspec

from tidings import limits
from tidings.broker import inputs
from tidings.broker.filters import Filter
from tidings.errors import NotFound, SubscriptionConflict
from tidings.gateways.http.listings import subscription_infos
from tidings.gateways.http.puller import Puller
from tidings.node import Attachment, Conversation, Node, open_conversation

_Key: TypeAlias = tuple[str | None, str]


class _Holder:
    """A client, and what it holds by the names of the subscriptions."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.pullers: dict[str, Puller] = {}
        self.attaching = False
        """Whether it is about to hold one more."""


class Pullers:
    """All that is held over HTTP.

    Args:
        node: the node behind it.
        protocol: what the door is called in listings.
    """

    def __init__(self, node: Node, protocol: str) -> None:
        self._node = node
        self._protocol = protocol
        self._holders: dict[_Key, _Holder] = {}
        self._turn = asyncio.Lock()  # of opening and attaching

    @asynccontextmanager
    async def hold(
        self,
        client_id: str | None,
        name: str,
        wanted: inputs.Subscribe | None,
        *,
        address: str,
        take_over: bool = False,
        lasts: bool = True,
    ) -> AsyncIterator[Puller]:
        """Holds a subscription during a request, and, if that `lasts`, after it.

        If there is none of the name, it is made as `wanted`.

        Raises:
            NotFound: there is none, and nothing is wanted.
            SubscriptionConflict: there is one with another filter, or of another client.
            SubscriptionInUse, ClientIdInUse: somebody else is there.
        """
        key = _key(client_id, name)
        puller = self._find(key, name)
        if puller is None:
            async with self._turn:
                puller = self._find(key, name) or await self._begin(key, name, wanted, address, take_over=take_over)
        with self._in_use(key, name, puller, lasts=lasts):
            if wanted is not None:
                await self._check_same(key, name, puller, wanted)
            yield puller

    @contextmanager
    def renewed(self, client_id: str | None, name: str) -> Iterator[Puller | None]:
        """Gives what is held already, if anything is, and renews its lease."""
        key = _key(client_id, name)
        puller = self._find(key, name)
        if puller is None:
            yield None
            return
        with self._in_use(key, name, puller):
            yield puller

    def holds(self, client_id: str | None, name: str) -> bool:
        """Whether a client holds a subscription now."""
        return self._find(_key(client_id, name), name) is not None

    def give_back(self, client_id: str | None, name: str) -> None:
        """Ends a hold, if there is one; what is in flight goes back without counting an attempt."""
        self._end(_key(client_id, name), name)

    def conversation(self, client_id: str) -> Conversation | None:
        """Returns the conversation of a client that holds something now."""
        holder = self._holders.get((client_id, ""))
        return holder.conversation if holder else None

    def close(self) -> None:
        """Ends all."""
        for key, holder in list(self._holders.items()):
            self._forget(key)
            holder.conversation.close()

    def _find(self, key: _Key, name: str) -> Puller | None:
        holder = self._holders.get(key)
        return holder.pullers.get(name) if holder else None

    async def _begin(
        self, key: _Key, name: str, wanted: inputs.Subscribe | None, address: str, *, take_over: bool
    ) -> Puller:
        holder = self._holders.get(key)
        if holder is None:
            conversation = await open_conversation(
                self._node,
                client_id=key[0],
                protocol=self._protocol,
                address=address,
                take_over=take_over,
                closed=lambda _: self._forget(key),
            )
            holder = self._holders[key] = _Holder(conversation)
        holder.attaching = True
        try:
            puller = holder.pullers[name] = Puller(await _attach(holder.conversation, name, wanted))
        finally:
            holder.attaching = False
            self._close_if_empty(key, holder)
        return puller

    async def _check_same(self, key: _Key, name: str, puller: Puller, wanted: inputs.Subscribe) -> None:
        """Refuses a request for another filter than that of the subscription which is held."""
        if puller.filter is None:
            infos = await subscription_infos(self._holders[key].conversation, name)
            puller.filter = infos[0].filter if infos else ""
        asked = str(Filter(wanted.queue, wanted.event, wanted.headers))
        if asked != puller.filter:
            raise SubscriptionConflict(
                f"subscription {name!r} has the filter {puller.filter}, not {asked}; use another name, leave queue and"
                " event out, or delete it first"
            )

    @contextmanager
    def _in_use(self, key: _Key, name: str, puller: Puller, *, lasts: bool = False) -> Iterator[None]:
        if puller.lease:
            puller.lease.cancel()
        puller.uses += 1
        puller.lasts = puller.lasts or lasts
        try:
            yield
        finally:
            puller.uses -= 1
            if puller.uses or self._find(key, name) is not puller:
                pass  # another request is under way, or it was given back
            elif not puller.lasts:
                self._end(key, name)
            else:
                loop = asyncio.get_running_loop()
                puller.lease = loop.call_later(puller.lease_ms / 1000, self._end, key, name)

    def _end(self, key: _Key, name: str) -> None:
        holder = self._holders.get(key)
        puller = holder.pullers.pop(name, None) if holder else None
        if holder and puller:
            if puller.lease:
                puller.lease.cancel()
            puller.attachment.leave()
            self._close_if_empty(key, holder)

    def _close_if_empty(self, key: _Key, holder: _Holder) -> None:
        if not holder.pullers and not holder.attaching:
            self._forget(key)
            holder.conversation.close()

    def _forget(self, key: _Key) -> None:
        holder = self._holders.pop(key, None)
        for puller in holder.pullers.values() if holder else ():
            if puller.lease:
                puller.lease.cancel()


def _key(client_id: str | None, name: str) -> _Key:
    # Anonymous clients have a conversation for each subscription: what one of them leaves is not another one's.
    return (client_id, "") if client_id is not None else (None, name)


async def _attach(conversation: Conversation, name: str, wanted: inputs.Subscribe | None) -> Attachment:
    as_it_is = inputs.Subscribe(queue="", event="", name=name, pulls=True, concurrency=limits.CONCURRENCY_MAX)
    try:
        return await conversation.subscribe(as_it_is)
    except NotFound:
        if wanted is None:
            raise
    # All of what is in flight is with the client, so the time of all of it runs.
    asked = msgspec.structs.replace(wanted, name=name, pulls=True, concurrency=limits.CONCURRENCY_MAX)
    return await conversation.subscribe(asked)
