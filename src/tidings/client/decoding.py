"""How payloads become objects: what was published, as the application reads it."""

from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidings.errors import InvalidPayload
from tidings.model import JSON

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # type checkers know it without its being installed

    Payload = TypeVar("Payload", default=Any)
    """What payloads are decoded as; where no `type` was given, anything."""
else:
    from typing import TypeVar

    Payload = TypeVar("Payload")

UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for a payload that is not what it should be."""
decode_json: Final = msgspec.json.Decoder().decode


class Decoding:
    """How the payloads of a subscription become objects.

    Args:
        type: what they are validated as (anything msgspec understands); None means plain JSON, or bytes.
    """

    __slots__ = ("_type", "json")

    def __init__(self, type: Any = None) -> None:
        self._type = type
        self.json = decode_json if type is None else msgspec.json.Decoder(type).decode

    def decode(self, data: bytes, content_type: str) -> Any:
        """Returns the payload.

        Raises:
            any of UNDECODABLE: it is not what it should be.
        """
        if content_type == JSON:
            return self.json(data)
        return data if self._type is None else msgspec.convert(data, self._type)

    def decode_of(self, whose: str, data: bytes, content_type: str) -> Any:
        """Returns the payload of what is named.

        Raises:
            InvalidPayload: it is not what it should be.
        """
        try:
            return self.decode(data, content_type)
        except UNDECODABLE as error:
            raise InvalidPayload(f"payload of {whose} does not decode: {error}") from None


PLAIN: Final = Decoding()
