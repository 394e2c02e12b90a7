"""Signatures of webhooks, as Standard Webhooks 1.0 has them (https://www.standardwebhooks.com, "Signature scheme").

    webhook-id          names the message; the same whenever it is sent again
    webhook-timestamp   seconds since 1970 at which it is sent
    webhook-signature   "v1," and in Base64 the HMAC-SHA256 of ID.TIMESTAMP.BODY

The key is what follows "whsec_" in the secret, decoded.
"""

import base64
import hashlib
import hmac

from tidings.model import WEBHOOK_SECRET_PREFIX


def signed_headers(secret: str, id: str, time_s: int, body: bytes) -> list[tuple[str, str]]:
    """Returns the headers that sign a body."""
    key = base64.b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX))
    digest = hmac.new(key, f"{id}.{time_s}.".encode() + body, hashlib.sha256).digest()
    return [
        ("webhook-id", id),
        ("webhook-timestamp", str(time_s)),
        ("webhook-signature", f"v1,{base64.b64encode(digest).decode()}"),
    ]
