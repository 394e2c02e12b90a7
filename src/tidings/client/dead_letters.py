"""A dead letter as the application sees it."""

from typing import Any

import msgspec

from tidings.client.message import Decoding
from tidings.errors import InvalidPayload
from tidings.model import Failure

_decode = Decoding().decode


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up, for one subscription, and why. Times are UTC milliseconds since 1970.

    `number` names it within its subscription; queue, epoch and sequence say where it was published. `reason` is
    "attempts", "rejected", "ack timeout" or "connection lost". `failure` is the last error, if its client told one,
    and `client_id` who had it last. `fingerprint` is the same for all that failed with the same error in the same
    place.
    """

    number: int
    queue: str
    epoch: int
    sequence: int
    event: str
    data: bytes = msgspec.field(name="payload")
    """The payload as it was published, or edited: not decoded."""
    content_type: str
    id: str | None
    key: str | None
    headers: dict[str, str]
    published: int
    died: int
    reason: str
    attempts: int
    client_id: str | None
    fingerprint: str
    failure: Failure | None
    edited: bool

    @property
    def payload(self) -> Any:
        """The payload: JSON decoded, other content types as bytes.

        Raises:
            InvalidPayload: it is not valid JSON.
        """
        try:
            return _decode(self.data, self.content_type)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidPayload(f"payload of dead letter {self.number} does not decode: {error}") from None
