"""The HTTP gateway: REST with OpenAPI, on a port that other web doors share."""

from tidings.gateways.http.gateway import HttpGateway

__all__ = ["HttpGateway"]
