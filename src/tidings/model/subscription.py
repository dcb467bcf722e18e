"""Push subscriptions and the VAPID keys they were created with."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hmac import compare_digest

import msgspec

#: active devices per user; a further one replaces the one seen longest ago
MAX_ACTIVE_DEVICES = 20
#: refusals in a row for the same unknown reason after which a device is suspended
MAX_TARGET_REFUSALS = 3
#: a device that was neither seen nor reached for this long is suspended
SUSPEND_UNSEEN_AFTER = timedelta(days=60)


class SubscriptionState(StrEnum):
    ACTIVE = "active"
    #: the push service reported the device as gone (404, 410); deleted after a day, in case the service was wrong
    GONE = "gone"
    #: the push service no longer accepts its VAPID key; nothing is sent until the browser subscribes again
    REBIND = "rebind"
    #: refused repeatedly for an unknown reason, or neither seen nor reached for 60 days; nothing is sent until the
    #: browser registers again
    SUSPENDED = "suspended"


#: states of an endpoint that no message reaches any more. Only a new endpoint replaces it
ENDED_STATES = frozenset({SubscriptionState.GONE, SubscriptionState.REBIND})


class PushSubscription(msgspec.Struct, frozen=True):
    """One browser on one device that allowed notifications (W3C Push API `PushSubscription`)."""

    id: str
    user_id: str
    #: absolute https URL of the push service. It is a capability URL, so it is never logged
    endpoint: str
    #: the device's public key: 65 bytes, uncompressed P-256 point (RFC 8291 §3.1)
    p256dh: bytes
    #: shared authentication secret, 16 bytes (RFC 8291 §3.2)
    auth: bytes
    #: the VAPID key that the browser subscribed with; the push service accepts no other
    vapid_key_id: str
    state: SubscriptionState = SubscriptionState.ACTIVE
    #: the user's name for this device, e.g. "Firefox on Linux"
    device: str | None = None
    created_at: datetime | None = None
    #: incremented by each registration; an outcome applies only to the version that was tried
    version: int = 1
    #: when the browser last registered
    last_seen_at: datetime | None = None
    #: IANA name that the browser reported, not validated; None = it reported none
    timezone: str | None = None

    @property
    def address(self) -> str:
        """Where messages are sent."""
        return self.endpoint

    @property
    def is_usable(self) -> bool:
        """Whether messages may be sent to it."""
        return self.state is SubscriptionState.ACTIVE

    def has_keys_of(self, other: "PushSubscription") -> bool:
        """Return whether both have the same device keys, which only their browser knows. Takes constant time."""
        return compare_digest(self.auth, other.auth) and compare_digest(self.p256dh, other.p256dh)


class TargetChange(msgspec.Struct, frozen=True):
    """What the outcomes of one batch say about a target."""

    target_id: str
    #: whether a message was accepted
    is_reached: bool
    #: refusals in a row at the end of the batch, all for `reason`
    refusals: int = 0
    reason: str | None = None
    #: whether these refusals continue those before the batch; False after an acceptance or another reason
    continues: bool = True


@dataclass(frozen=True, slots=True)
class VapidKey:
    """A key pair that identifies this server to push services (RFC 8292)."""

    id: str
    #: 32 bytes, the P-256 scalar
    private: bytes
    #: 65 bytes, the uncompressed point
    public: bytes
    created_at: datetime
    retired_at: datetime | None = None
