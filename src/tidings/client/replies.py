"""The reply to a request, as the application sees it."""

from typing import Generic

from tidings.client.decoding import Decoding, Payload
from tidings.model import ReplyInfo


class Reply(Generic[Payload]):
    """What answers a request.

    `data` is the payload as it was sent, `client_id` who sent it.
    """

    __slots__ = ("_decoding", "client_id", "content_type", "data", "headers")
    __module__ = "tidings"

    def __init__(self, info: ReplyInfo, decoding: Decoding) -> None:
        self.data = info.payload
        self.content_type = info.content_type
        self.headers = info.headers
        self.client_id = info.client_id
        self._decoding = decoding

    def __repr__(self) -> str:
        return f"<Reply of {self.client_id or '(anonymous)'}, {len(self.data)} bytes>"

    @property
    def payload(self) -> Payload:
        """The payload: JSON decoded (and validated, with `type=`), other content types as bytes.

        Raises:
            InvalidPayload: it is not valid JSON, or not of the type that was asked for.
        """
        whose = f"the reply ({self.content_type})"
        payload: Payload = self._decoding.decode_of(whose, self.data, self.content_type)
        return payload
