"""The Socket.IO gateway: the standard clients of Socket.IO, as they are, on the port of HTTP."""

from tidings.gateways.socketio.gateway import SocketIoGateway

__all__ = ["SocketIoGateway"]
