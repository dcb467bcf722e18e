"""Web Push (RFC 8030, 8188, 8291, 8292).

Takes: a message for one browser subscription, and the VAPID keys.
Gives: an outcome, judged by the table of the service that answered.
Never: touches the database, follows a redirect, or connects to an address that was not checked.
"""

from tidings.channels.webpush.channel import WebPushChannel, WebPushPlugin
from tidings.channels.webpush.endpoints import EndpointPolicy, Origin
from tidings.channels.webpush.subscription import DeviceKeys, parse_subscription
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
