"""The request for one push and the response of the push service."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from tidings.channels.webpush.payload import build_topic
from tidings.model.delivery import OutboundMessage
from tidings.model.priority import Priority
from tidings.model.subscription import PushSubscription

#: maximum of the TTL in seconds: 28 days (FCM)
MAX_TTL = 2_419_200

_URGENCY_BY_PRIORITY = {Priority.URGENT: "high", Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "low"}


class PushRequest(msgspec.Struct, frozen=True, array_like=True):
    """The data needed to encrypt and post one message."""

    endpoint: str
    p256dh: bytes
    auth: bytes
    #: the VAPID key that the subscription was created with
    key_id: str
    #: JSON, not yet encrypted
    payload: bytes
    #: the push service must not store the message for longer
    expires_at: datetime
    #: `high`, `normal` or `low` (RFC 8030 §5.3)
    urgency: str
    topic: str | None
    #: 1 for the first attempt
    attempt: int


def build_push_request(message: OutboundMessage) -> PushRequest:
    """Return the push request for a message. Its urgency follows from the priority."""
    target = message.target
    assert isinstance(target, PushSubscription), "deliveries of this channel are planned to push subscriptions"
    return PushRequest(
        target.endpoint,
        target.p256dh,
        target.auth,
        target.vapid_key_id,
        message.payload,
        message.expires_at,
        _URGENCY_BY_PRIORITY[message.priority],
        build_topic(message.collapse_key),
        message.attempt,
    )


def compute_ttl(expires_at: datetime, now: datetime) -> int:
    """Return the whole seconds until a message expires, at most `MAX_TTL`. Below 1 it must not be sent any more.

    It is computed for each request: a longer TTL would let the push service deliver a message that has expired.
    """
    return min(MAX_TTL, (expires_at - now) // timedelta(seconds=1))


class PushResponse(msgspec.Struct, frozen=True):
    """The parts of an HTTP response that the response rules use."""

    status: int
    #: lower-case names
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    #: the first 4 KB, only read when the status is not 2xx
    body: str = ""


class NoResponse(msgspec.Struct, frozen=True):
    """The connection failed or timed out. The message may or may not have arrived."""

    why: str
    #: whether the service certainly did not process the request, although it can be reached
    is_unprocessed: bool = False
