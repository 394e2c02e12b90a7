"""Settings: what is asked of a queue, changed while it lives.

1. A change holds from now on, for what is in the queue as well as for what comes; it is durable when it is answered.
2. A queue exists from its first use, and to configure it is one, so that its settings hold for its first message.
3. They are deleted with the queue.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET

from tidings import limits
from tidings.broker.answers import answered_when_durable
from tidings.broker.quotas import Quotas, check_quota
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState
from tidings.broker.waiting import Waiting
from tidings.calls import ConfigureQueue, check_tag
from tidings.errors import InvalidOption, SystemQueue

_MOST: Final = 2**53  # what every JSON reader keeps exact
_POLICIES: Final = ("refuse-new", "drop-oldest")
_RANGES: Final[dict[str, tuple[int, int]]] = {
    "history_age_ms": (0, _MOST),
    "history_bytes": (0, _MOST),
    "history_messages": (0, _MOST),
    "ttl_ms": (1, limits.TTL_MS_MAX),
    "waiting_messages": (1, _MOST),
    "waiting_bytes": (1, _MOST),
    "waiting_age_ms": (1, _MOST),
}

_QUOTAS: Final = ("publish_rate", "publish_rate_bytes", "in_flight_max", "subscriptions_max")


class Settings:
    """The rules of settings, on the broker's state."""

    def __init__(self, state: BrokerState, waiting: Waiting, quotas: Quotas) -> None:
        self._state = state
        self._waiting = waiting
        self._quotas = quotas

    def configure(self, session: Session, request: int, call: ConfigureQueue) -> None:
        """Changes the settings of a queue, which is made if there is none of the name.

        Raises:
            SystemQueue: it is the server's own.
            InvalidName: the name breaks the rules.
            InvalidOption: a setting is out of its range.
            LimitReached: there are too many queues.
            Changed: it is not as `if_match` says.
        """
        if call.name.startswith("$"):
            raise SystemQueue(f"queue {call.name!r} is the server's own and cannot be configured")
        given: dict[str, Any] = {
            name: value
            for name in call.__struct_fields__
            if name not in ("name", "if_match") and (value := getattr(call, name)) is not UNSET
        }
        when_full = given.get("when_full", _POLICIES[0])
        if when_full not in _POLICIES:
            raise InvalidOption(f"when_full is {when_full!r}; it can be {' or '.join(map(repr, _POLICIES))}")
        for name, value in given.items():
            if name in _QUOTAS:
                check_quota(name, value)
            if name not in _RANGES:
                continue
            least, most = _RANGES[name]
            if value is not None and not least <= value <= most:
                raise InvalidOption(f"{name} is {value}; it can be {least} to {most}, or no limit")
        there = self._state.queues.get(call.name)
        check_tag(ConfigureQueue, call.if_match, there.settings if there else None)
        queue = self._state.open_queue(call.name)
        queue.settings = msgspec.structs.replace(queue.settings, **given)
        queue.trim_after_ms = queue.expire_after_ms = 0  # history may be too long by now, or the ttl over
        self._quotas.queue_changed(queue)
        self._state.changed(queue)
        self._waiting.configured(queue)
        answered_when_durable(self._state, session.connection, request, None)
