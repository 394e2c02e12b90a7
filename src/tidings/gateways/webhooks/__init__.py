"""Webhooks: what subscriptions are delivered is posted to URLs, until those take it."""

from tidings.gateways.webhooks.gateway import WebhookGateway

__all__ = ["WebhookGateway"]
