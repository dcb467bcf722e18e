"""Collection: which recipients of a notification are collected into digests instead of being notified at once. Pure."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import structs

from tidings.flow.plan.digest_window import open_window
from tidings.model.delivery import PlannedDelivery, SkipRecord
from tidings.model.digest import CollectedItem, DigestKey
from tidings.model.notification import Notification
from tidings.model.plan_options import DigestOptions
from tidings.model.priority import Priority


class DigestCollection(msgspec.Struct, frozen=True):
    """How a notification is collected."""

    notification: Notification
    options: DigestOptions
    rule_id: str

    @classmethod
    def for_notification(cls, notification: Notification) -> "DigestCollection | None":
        """Return how a notification is collected, None if it is not. Urgent ones are sent at once."""
        options = notification.plan.digest
        if options is None or notification.priority is Priority.URGENT:
            return None
        return cls(notification, options, _build_rule_id(options, notification.channels))

    def has_channel(self, channel: str) -> bool:
        """Return whether messages on a channel are collected."""
        return not self.options.channels or channel in self.options.channels

    def collect(
        self,
        user_id: str,
        timezone: str,
        now: datetime,
        deliveries: Sequence[PlannedDelivery],
        skips: Sequence[SkipRecord],
        *,
        digest_at: str | None = None,
    ) -> CollectedItem:
        """Return the item for a user. deliveries, skips: what is planned on the collected channels otherwise.

        digest_at: the time of day at which the user wants digests, `HH:MM`. It replaces that of a digest that closes at
        a time of day or of week.
        """
        options = self.options
        if digest_at is not None and options.at is not None:
            options = structs.replace(options, at=" ".join([*options.at.split()[:-1], digest_at]))
        first_at_once = self.options.first_at_once
        is_sent_first = first_at_once or self.notification.plan.has_overflow_digest
        return CollectedItem(
            self.notification.id,
            DigestKey(user_id, self.notification.template_code, self.rule_id, self.options.key_value or ""),
            self.notification.category,
            self.notification.created_at,
            open_window(options, now, timezone),
            self.options.max_items,
            first_at_once,
            tuple(deliveries) if is_sent_first else (),
            tuple(skips) if is_sent_first else (),
        )


def list_collected_channels(notification: Notification) -> tuple[str, ...]:
    """Return the channels of the digest that a notification is collected into; empty = every channel the user has."""
    options = notification.plan.digest
    of_digest = () if options is None else options.channels
    if not (of_digest and notification.channels):
        return of_digest or notification.channels
    return tuple(channel for channel in notification.channels if channel in of_digest)


def _build_rule_id(options: DigestOptions, channels: Sequence[str]) -> str:
    """Return what distinguishes rules whose items must not share a digest: the key expression and the channels.

    Neither the version of the template nor the window is part of it, so that a digest that is open while a version is
    published goes on collecting.
    """
    parts = [options.key, sorted(options.channels), sorted(channels)]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
