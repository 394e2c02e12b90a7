"""The errors of Tidings, and the registry that gives each its code, text and consequence.

TidingsError
├── InvalidInput          what was passed can never work; correct it
│   ├── InvalidName
│   ├── InvalidFilter
│   ├── InvalidOption
│   ├── PayloadTooLarge
│   ├── InvalidPayload
│   └── ProtocolViolation
├── Refused               the server understood and does not do it as things stand
│   ├── ClientIdInUse
│   ├── SubscriptionConflict
│   ├── SubscriptionInUse
│   ├── SystemQueue
│   ├── NotFound
│   ├── Changed
│   ├── NeverDelivered
│   ├── DeliveryTakenAway
│   ├── GivenUp
│   └── LimitReached
│       └── QuotaExceeded
├── Unavailable           it may work later; nothing was stored unless the text says otherwise
│   ├── ConnectionLost
│   ├── TimedOut
│   ├── Unanswered
│   ├── StoreUnavailable
│   ├── DiskFull
│   ├── QueueFull
│   ├── Draining
│   └── TakenOver
├── StoreUnusable         the data file cannot be opened as it is
│   ├── StoreForeign
│   ├── StoreNewer
│   ├── StoreLocked
│   └── StoreDamaged
└── InternalError         a bug of ours; please report it
"""

from typing import ClassVar


class TidingsError(Exception):
    """Base of all errors of Tidings.

    `code` is stable and safe to compare; `retryable` says whether the same call may succeed later.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500
    """What HTTP answers with."""

    @property
    def text(self) -> str:
        """What was wrong, what is allowed and what to do."""
        return str(self.args[0]) if self.args else self.code


class InvalidInput(TidingsError):
    """What was passed can never work; correct it."""

    code = "invalid_input"
    status = 400


class InvalidName(InvalidInput):
    """A queue, event, subscription or client name breaks the rules for names."""

    code = "invalid_name"


class InvalidFilter(InvalidInput):
    """A filter is not made of names, `*` and a last `#`."""

    code = "invalid_filter"


class InvalidOption(InvalidInput):
    """An option is out of its range."""

    code = "invalid_option"


class PayloadTooLarge(InvalidInput):
    """A payload, or the headers beside it, exceed their limit."""

    code = "payload_too_large"
    status = 413


class InvalidPayload(InvalidInput):
    """A payload cannot be encoded, or does not decode to the type that was asked for."""

    code = "invalid_payload"


class ProtocolViolation(InvalidInput):
    """A peer sent what the protocol does not allow; the connection is closed."""

    code = "protocol_violation"


class Refused(TidingsError):
    """The server understood and does not do it as things stand."""

    code = "refused"
    status = 409


class ClientIdInUse(Refused):
    """Another living client has this client id."""

    code = "client_id_in_use"


class SubscriptionConflict(Refused):
    """A subscription of this name has another filter or owner."""

    code = "subscription_conflict"


class SubscriptionInUse(Refused):
    """A subscription of this name has a subscriber already."""

    code = "subscription_in_use"


class SystemQueue(Refused):
    """Queues whose names begin with `$` are the server's own."""

    code = "system_queue"
    status = 403


class NotFound(Refused):
    """There is no such queue or subscription."""

    code = "not_found"
    status = 404


class Changed(Refused):
    """What was to be changed is not any more as it was when its tag was given."""

    code = "changed"
    status = 412


class NeverDelivered(Refused):
    """An ack names a message that was never delivered to this subscription."""

    code = "never_delivered"


class DeliveryTakenAway(Refused):
    """An ack came after the delivery had been taken away; the message is delivered again."""

    code = "delivery_taken_away"


class GivenUp(Refused):
    """A message that somebody waits for was given up: it is a dead letter, or was cut from what is delivered."""

    code = "given_up"


class LimitReached(Refused):
    """A bound of the server is reached."""

    code = "limit_reached"
    status = 429


class QuotaExceeded(LimitReached):
    """More was published than a client or a queue may in the time; it can be published a moment later."""

    code = "quota_exceeded"
    retryable = True


class Unavailable(TidingsError):
    """It may work later; nothing was stored unless the text says otherwise."""

    code = "unavailable"
    status = 503
    retryable = True


class ConnectionLost(Unavailable):
    """The connection ended; a client tries again unless it was told not to."""

    code = "connection_lost"


class TimedOut(Unavailable):
    """The time limit of a call passed first. A publish that was already under way may still be stored."""

    code = "timed_out"
    status = 504


class Unanswered(Unavailable):
    """No subscription wants a request, so that nobody will answer it."""

    code = "unanswered"


class StoreUnavailable(Unavailable):
    """The store refused a transaction; nothing of it was stored."""

    code = "store_unavailable"


class DiskFull(Unavailable):
    """Free disk space is below the reserve."""

    code = "disk_full"
    status = 507


class QueueFull(Unavailable):
    """As much waits in a queue as its settings allow; nothing was stored."""

    code = "queue_full"


class Draining(Unavailable):
    """The server is about to stop; connect again."""

    code = "draining"


class TakenOver(Unavailable):
    """Another process took over this client id; this one does not connect again by itself."""

    code = "taken_over"
    status = 409
    retryable = False


class StoreUnusable(TidingsError):
    """The data file cannot be opened as it is."""

    code = "store_unusable"


class StoreForeign(StoreUnusable):
    """The file is not a Tidings data file."""

    code = "store_foreign"


class StoreNewer(StoreUnusable):
    """The file was written by a newer version of Tidings."""

    code = "store_newer"


class StoreLocked(StoreUnusable):
    """Another process has the file open."""

    code = "store_locked"


class StoreDamaged(StoreUnusable):
    """The file is damaged; `tidings check` says where."""

    code = "store_damaged"


class InternalError(TidingsError):
    """A bug of ours; please report it."""

    code = "internal_error"


def _tree(base: type[TidingsError]) -> list[type[TidingsError]]:
    return [base] + [error for child in base.__subclasses__() for error in _tree(child)]


REGISTRY: dict[str, type[TidingsError]] = {error.code: error for error in _tree(TidingsError)}
"""Every error by its code. Wire, HTTP, command line and documentation take code, text and consequence from here."""

_RECONNECT = {"draining", "unavailable", "store_unavailable", "connection_lost"}


def from_code(code: str, text: str) -> TidingsError:
    """Returns the error that a peer named; an unknown code becomes the base class."""
    return REGISTRY.get(code, TidingsError)(text)


def reconnects(code: str) -> bool:
    """Whether a client whose connection was closed with this code should connect again."""
    return code in _RECONNECT
