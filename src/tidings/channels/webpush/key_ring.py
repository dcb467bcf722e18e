"""The VAPID keys of a process, and the validation of subscriptions. Without the database, see `server_keys.py`."""

from collections.abc import Sequence
from datetime import datetime

from tidings.channels.webpush.base64url import encode as base64url
from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy
from tidings.channels.webpush.subscription_parser import parse_subscription
from tidings.model.subscription import VapidKey


class VapidKeyRing:
    """The VAPID keys for new subscriptions, and the validation of subscriptions."""

    def __init__(self, keys: Sequence[VapidKey], policy: EndpointPolicy) -> None:
        self._endpoint_policy = policy
        self.set_keys(keys)

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the keys. keys: newest first."""
        self._active = [key for key in keys if key.retired_at is None]
        self.active_ids = frozenset(key.id for key in self._active)

    def public_key(self) -> tuple[str, str]:
        """Return (public key as base64url, key id) for new subscriptions."""
        return base64url(self._current_key.public), self._current_key.id

    def current_key(self) -> tuple[str, datetime]:
        """Return (id, creation time) of the key for new subscriptions."""
        return self._current_key.id, self._current_key.created_at

    def is_active(self, key_id: str) -> bool:
        """Whether this server still signs with a key."""
        return key_id in self.active_ids

    def parse_subscription(self, body: object) -> tuple[str, bytes, bytes]:
        """Return (endpoint, p256dh, auth) of a `PushSubscription.toJSON()`. Raises ValidationFailed."""
        subscription = parse_subscription(body, self._endpoint_policy)
        return subscription.endpoint, subscription.p256dh, subscription.auth

    @property
    def _current_key(self) -> VapidKey:
        if not self._active:
            raise RuntimeError("the VAPID keys are not loaded")
        return self._active[0]
