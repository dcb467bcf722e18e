"""One push as it travels to the sender, in this process or another."""

from datetime import datetime, timedelta

import msgspec

from tidings.channels.webpush.payload import topic_for
from tidings.model.delivery import Message
from tidings.model.priority import Priority

#: seconds; FCM's maximum is 28 days, and 0 conflicts with Microsoft's cache policy
MIN_TTL = 60
MAX_TTL = 2_419_200

_URGENCY = {Priority.URGENT: "high", Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "low"}


class PushRequest(msgspec.Struct, frozen=True, array_like=True):
    """Everything needed to encrypt and post one message."""

    endpoint: str
    p256dh: bytes
    auth: bytes
    #: the VAPID key the subscription was made with
    key_id: str
    #: JSON, not yet encrypted
    payload: bytes
    #: seconds the service may keep it
    ttl: int
    #: `high`, `normal` or `low` (RFC 8030 §5.3)
    urgency: str
    topic: str | None
    #: 1 for the first try
    attempt: int


def request_for(message: Message, now: datetime) -> PushRequest:
    """Return the request of a message: TTL from what is left until it expires, urgency from its priority."""
    target = message.target
    left = (message.expires_at - now) // timedelta(seconds=1)
    return PushRequest(
        target.endpoint,
        target.p256dh,
        target.auth,
        target.vapid_key_id,
        message.payload,
        min(MAX_TTL, max(MIN_TTL, left)),
        _URGENCY[message.priority],
        topic_for(message.notification_id),
        message.attempt,
    )
