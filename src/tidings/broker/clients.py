"""Clients: who comes, who goes, and who takes over."""

from __future__ import annotations

from tidings.broker.catalog import Catalog
from tidings.broker.effects import Close, Welcome
from tidings.broker.inputs import Connect
from tidings.broker.presence import Presence
from tidings.broker.quotas import Quotas
from tidings.broker.receipts import Receipts
from tidings.broker.replies import Replies
from tidings.broker.sessions import Client, Producer, Session
from tidings.broker.state import BrokerState
from tidings.errors import ClientIdInUse, ConnectionLost, TakenOver
from tidings.model import check_label


class Clients:
    """The rules of sessions, on the broker's state."""

    def __init__(
        self,
        state: BrokerState,
        catalog: Catalog,
        presence: Presence,
        receipts: Receipts,
        replies: Replies,
        quotas: Quotas,
    ) -> None:
        self._state = state
        self._catalog = catalog
        self._receipts = receipts
        self._replies = replies
        self._quotas = quotas
        self._presence = presence

    def connect(self, input: Connect) -> None:
        """Lets a client in.

        Raises:
            InvalidName: the client id breaks the rules.
            ClientIdInUse: another living client has it.
        """
        state = self._state
        if input.client_id is not None:
            check_label(input.client_id, "client id")
        holder = state.client_ids.get(input.client_id) if input.client_id is not None else None
        # A client that was not welcomed yet has no token; what it introduced itself with before may even arrive late.
        own = holder if holder and holder.producer.id == input.producer else state.tokens.get(input.token)
        if own and own.client_id == input.client_id:
            self._close(own, ConnectionLost("the same client opened a new connection"), reason="reconnected")
            holder = None
        if holder:
            self._take_over(holder, input)
        producer = state.producers.get(input.producer)
        if producer is None:
            producer = state.producers[input.producer] = Producer(input.producer, state.now_ms)
        producer.last_seen_ms = state.now_ms
        token = input.token if input.token and input.token not in state.tokens and not holder else input.fresh_token
        session = Session(
            input.connection, input.client_id, token, producer, address=input.address, protocol=input.protocol
        )
        session.connected_ms = state.now_ms
        state.sessions[input.connection] = session
        state.tokens[token] = session
        state.effects.append(Welcome(input.connection, token))
        if input.client_id is not None:
            state.client_ids[input.client_id] = session
            self._remember(session)
            self._quotas.connected(session)
            self._presence.announce(session)

    def disconnect(self, session: Session, *, farewell: bool, reason: str) -> None:
        """Ends a session: its deliveries are taken back, its ephemeral subscriptions end."""
        state = self._state
        del state.sessions[session.connection]
        del state.tokens[session.token]
        for subscriber in list(session.subscribers.values()):
            self._catalog.detach(subscriber, lost=not farewell)
        self._receipts.forget(session)
        self._quotas.left(session)
        self._replies.left(session, farewell=farewell)
        producer = session.producer
        producer.last_seen_ms = state.now_ms
        if farewell and not producer.pending:
            state.producers.pop(producer.id, None)
            state.ledger.deleted(producer.key, state.now_ms)
        if session.client_id is not None:
            del state.client_ids[session.client_id]
            self._remember(session)
        self._presence.disconnected(session, reason)

    def _take_over(self, holder: Session, input: Connect) -> None:
        if input.take_over:
            error = TakenOver(f"another client took over the client id {holder.client_id!r} from {input.address}")
            self._close(holder, error, reason="taken over")
            return
        seconds = (self._state.now_ms - holder.connected_ms) // 1000
        raise ClientIdInUse(
            f"client id {input.client_id!r} is in use by a client at {holder.address}, connected {seconds} s ago;"
            " choose another, or ask to take over (take_over=True);"
            " to share a subscription among several processes, give each its own and subscribe with shared="
        )

    def _close(self, session: Session, error: ConnectionLost | TakenOver, *, reason: str) -> None:
        self._state.effects.append(Close(session.connection, error))
        self.disconnect(session, farewell=False, reason=reason)

    def _remember(self, session: Session) -> None:
        assert session.client_id is not None, "anonymous clients are not remembered"
        client = Client(session.client_id, session.address, session.protocol, self._state.now_ms)
        known = self._state.clients.get(session.client_id)
        if known is not None:
            client.quotas, client.quota = known.quotas, known.quota
        self._state.clients[session.client_id] = client
        self._state.changed(client)
