"""Answers to requests: once what they changed is durable, or that it could not be."""

from __future__ import annotations

from collections.abc import Callable

from tidings.broker.effects import Answered, Done, Refuse
from tidings.broker.inputs import Request
from tidings.broker.ledger import Answer
from tidings.broker.state import BrokerState
from tidings.errors import DiskFull, NotFound, StoreUnavailable


def done_when_durable(state: BrokerState, connection: int, kind: Request, request: int) -> None:
    """Answers a request once all that it changed is durable."""
    _when_durable(state, Done(connection, request), kind)


def answered_when_durable(state: BrokerState, connection: int, request: int, value: object) -> None:
    """Answers a call with a value once all that it changed is durable."""
    _when_durable(state, Answered(connection, request, value), "call")


def once_durable(state: BrokerState, act: Callable[[], None]) -> None:
    """Acts once all that was changed is durable, however often the store refuses it before."""

    def failed(_reason: str, _full: bool) -> None:
        state.ledger.when_durable(Answer(act, failed), hurry=False)

    state.ledger.when_durable(Answer(act, failed))


def not_found(state: BrokerState, connection: int, kind: Request, request: int, error: NotFound) -> None:
    """Refuses a request for what is gone: once that is durable, else a crash might bring it back.

    Its client may have asked to do away with it before a connection was lost, and takes this for the answer to that.
    """
    effect = Refuse(connection, kind, request, error)
    if state.ledger.has_work():
        _when_durable(state, effect, kind)
    else:
        state.effects.append(effect)


def refuse(state: BrokerState, connection: int, kind: Request, request: int, reason: str, *, full: bool) -> None:
    """Tells that the store did not take what a request changed."""
    error = DiskFull(reason) if full else StoreUnavailable(reason)
    state.effects.append(Refuse(connection, kind, request, error))


def _when_durable(state: BrokerState, effect: Done | Answered | Refuse, kind: Request) -> None:
    def reached() -> None:
        state.effects.append(effect)

    def failed(reason: str, full: bool) -> None:
        refuse(state, effect.connection, kind, effect.request, reason, full=full)

    state.ledger.when_durable(Answer(reached, failed))
