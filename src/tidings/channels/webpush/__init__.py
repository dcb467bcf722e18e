"""Web Push (RFC 8030, 8188, 8291, 8292).

Takes: a message for one push subscription, and the VAPID keys.
Gives: an outcome, decided by the response rules of the push service.
Never: accesses the database while it sends, follows a redirect, or connects to an address that was not checked.
"""

from tidings.channels.webpush.channel import WebPushChannel
from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy, Origin
from tidings.channels.webpush.plugin import WebPushPlugin
from tidings.channels.webpush.subscription_parser import DeviceKeys, parse_subscription
from tidings.channels.webpush.vapid import check_subject, generate_key

plugin = WebPushPlugin()

__all__ = [
    "DeviceKeys",
    "EndpointPolicy",
    "Origin",
    "WebPushChannel",
    "WebPushPlugin",
    "check_subject",
    "generate_key",
    "parse_subscription",
    "plugin",
]
