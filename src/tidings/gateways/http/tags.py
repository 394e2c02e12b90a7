"""Tags: with them a change holds only for what it was made for (RFC 9110, sections 8.8.3 and 13.1.1)."""

import re
from typing import Annotated

from litestar.params import HeaderParameter

from tidings import calls
from tidings.errors import InvalidOption

IfMatch = Annotated[
    str | None, HeaderParameter(name="If-Match", description="The ETag of what is to be changed, as it was seen.")
]


def etag(call: type[calls.Call], item: object) -> dict[str, str]:
    """Returns the header that tells the tag of what a call may change."""
    return {"ETag": f'"{calls.tag_of(call, item)}"'}


def wanted_tag(if_match: str | None) -> str | None:
    """Returns the tag that If-Match wants, None for any.

    Raises:
        InvalidOption: it is not one tag in quotes.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    match = re.fullmatch(r'\s*"([^"]*)"\s*', if_match)
    if match is None:
        raise InvalidOption(f"If-Match: {if_match}: write one ETag as it was given, in its quotes, or *")
    return match[1]
