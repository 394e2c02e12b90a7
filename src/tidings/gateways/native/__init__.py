"""The native gateway: `tidings://`, length-prefixed MessagePack frames over TCP."""

from tidings.gateways.native.gateway import NativeGateway
from tidings.gateways.native.peer import NativePeer

__all__ = ["NativeGateway", "NativePeer"]
