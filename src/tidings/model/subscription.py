"""Push subscriptions and the VAPID keys they were made with."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec


class SubscriptionState(StrEnum):
    ACTIVE = "active"
    #: the service says the device is gone (404, 410); kept for a day in case the service was wrong, then erased
    GONE = "gone"
    #: bound to a key the service no longer accepts; nothing is sent until the browser subscribes again
    REBIND = "rebind"


class PushSubscription(msgspec.Struct, frozen=True):
    """One browser on one device that agreed to be pushed to (W3C Push API `PushSubscription`)."""

    id: str
    user_id: str
    #: absolute https URL of the push service; a capability: never logged
    endpoint: str
    #: the device's public key: 65 bytes, uncompressed P-256 point (RFC 8291 §3.1)
    p256dh: bytes
    #: 16 bytes shared secret (RFC 8291 §3.2)
    auth: bytes
    #: the VAPID key the browser was given when it subscribed; the service accepts no other
    vapid_key_id: str
    state: SubscriptionState = SubscriptionState.ACTIVE
    #: what the user calls this device, e.g. "Firefox on Linux"
    device: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class VapidKey:
    """A key pair that identifies this application server to push services (RFC 8292)."""

    id: str
    #: 32 bytes, the P-256 scalar
    private: bytes
    #: 65 bytes, the uncompressed point
    public: bytes
    created_at: datetime
    retired_at: datetime | None = None
