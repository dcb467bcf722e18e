"""Webhooks to endpoints of the host's customers (Standard Webhooks 1.0).

Takes: a message for one endpoint, with the endpoint's signing secrets.
Gives: an outcome, decided by the response rules of Standard Webhooks.
Never: accesses the database, follows a redirect, or connects to an address that was not checked.
"""

from tidings.channels.webhook.channel import WebhookChannel
from tidings.channels.webhook.plugin import WebhookPlugin, load_webhook_settings
from tidings.channels.webhook.settings import (
    WebhookSettings,
    create_status_event_sender,
    create_variables_endpoints,
    create_webhook_channel,
)
from tidings.channels.webhook.signing import generate_secret, parse_secret
from tidings.channels.webhook.status_events import StatusEventSender

plugin = WebhookPlugin()

__all__ = [
    "StatusEventSender",
    "WebhookChannel",
    "WebhookPlugin",
    "WebhookSettings",
    "create_status_event_sender",
    "create_variables_endpoints",
    "create_webhook_channel",
    "generate_secret",
    "load_webhook_settings",
    "parse_secret",
    "plugin",
]
