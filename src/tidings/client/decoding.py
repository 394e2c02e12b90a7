"""How payloads become objects: what was published, as the application reads it."""

from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidings.client.failures import text_of
from tidings.errors import InvalidOption, InvalidPayload
from tidings.model import JSON

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # type checkers know it without its being installed

    Payload = TypeVar("Payload", default=Any)
    """What payloads are decoded as; where no `type` was given, anything."""
else:
    from typing import TypeVar

    Payload = TypeVar("Payload")

_PLAIN_WORDS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a payload that is not what it should be."""
decode_json: Final = msgspec.json.Decoder().decode


class Decoding:
    """How the payloads of a subscription become objects.

    Args:
        type: what they are validated as (anything msgspec understands); None means plain JSON, or bytes.

    Raises:
        InvalidOption: msgspec does not understand the type.
    """

    __slots__ = ("_type", "json")

    def __init__(self, type: Any = None) -> None:
        self._type = type
        try:
            self.json = decode_json if type is None else msgspec.json.Decoder(type).decode
        except TypeError as error:
            raise InvalidOption(f"type={type!r} is nothing that payloads can be decoded as: {error}") from None

    def decode(self, data: bytes, content_type: str) -> Any:
        """Returns the payload.

        Raises:
            Exception: it is not what it should be; or the type has code of its own, which raised that.
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
        except Exception as error:  # a type may run the application's code, which may raise anything
            raise InvalidPayload(f"payload of {whose} does not decode: {why(error)}") from None


def why(error: Exception) -> str:
    """Returns in words why a payload does not decode."""
    return str(error) if isinstance(error, _PLAIN_WORDS) else f"{type(error).__name__}: {text_of(error)}"


PLAIN: Final = Decoding()
