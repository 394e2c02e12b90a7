"""Replies over HTTP: what answers a request is sent to the address that the request names."""

from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath

from tidings.calls import Respond
from tidings.gateways.http.bodies import AnyRequest
from tidings.gateways.http.door import Door
from tidings.gateways.http.doorkeeper import decode_segment
from tidings.gateways.http.publishing import content_type_of
from tidings.gateways.http.reference import takes
from tidings.gateways.messages import Responded


@post(
    "/replies/{address:str}",
    status_code=200,
    tags=["publish"],
    summary="Respond to a request",
    opt=takes({"*/*": {"description": "The reply as it is."}}),
)
async def respond(request: AnyRequest, door: NamedDependency[Door], address: FromPath[str]) -> Responded:
    """Sends the body to who waits for it; `address` is the header `$reply-to` of the message that asks.

    It is not stored, and the first reply counts. The message is still to be acked.
    """
    body = await request.body()
    call = Respond(address=decode_segment(address), payload=body, content_type=content_type_of(request, body))
    return Responded(bool(await (await door.clerk()).call(call)))


HANDLERS = [respond]
