"""Audiences as the store reads them, saved audiences, and the topics that users subscribed to."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.audience import Audience
from tidings.model.channel_engagement import ChannelEngagement
from tidings.model.delivery import Recipient
from tidings.model.saved_audience import SavedAudience
from tidings.model.topic import TopicSubscription
from tidings.ports.transaction import Transaction


class Topics(Protocol):
    """The topics that users subscribed to."""

    async def subscribe(self, tx: Transaction, user_id: str, topic: str, now: datetime) -> bool:
        """Subscribe an existing user. Returns whether the subscription is new."""
        ...

    async def unsubscribe(self, tx: Transaction, user_id: str, topic: str) -> bool:
        """End a subscription. Returns whether there was one."""
        ...

    async def get(self, tx: Transaction, user_id: str, topic: str) -> TopicSubscription | None: ...
    async def list_by_user(
        self, tx: Transaction, user_id: str, *, after: str | None = None, limit: int
    ) -> Sequence[TopicSubscription]:
        """Return the topics of a user in the order of their names. after: the last name of the previous page."""
        ...

    async def count(self, tx: Transaction, user_id: str) -> int: ...


class SavedAudiences(Protocol):
    """Audiences that are stored under a name."""

    async def put(self, tx: Transaction, audience: SavedAudience, now: datetime) -> bool:
        """Create or replace an audience. Returns whether it is new."""
        ...

    async def get_many(self, tx: Transaction, names: Collection[str]) -> Mapping[str, SavedAudience]:
        """Return name → audience. Unknown names are left out."""
        ...

    async def page(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[SavedAudience]:
        """Return audiences in the order of their names. after: the last name of the previous page."""
        ...

    async def lock(self, tx: Transaction) -> None:
        """Wait until no other transaction changes saved audiences, and keep others waiting."""
        ...

    async def delete(self, tx: Transaction, name: str) -> bool:
        """Delete an audience. Returns whether there was one."""
        ...


class Audiences(Protocol):
    """Pages, members and sizes of audiences."""

    async def page(
        self,
        tx: Transaction,
        audience: Audience,
        *,
        category: str,
        after: str | None,
        limit: int,
        subject: str | None = None,
    ) -> Sequence[Recipient]:
        """Return the next users of an audience in id order, with targets.

        Each has the preferences that may apply to a notification of the category on the subject.
        """
        ...

    async def load_recipients(
        self, tx: Transaction, requests: Sequence[tuple[str, str, str | None]]
    ) -> Sequence[Recipient | None]:
        """Return the recipient of each (user id, category, subject), in order, by one statement.

        None for an unknown user.
        """
        ...

    async def filter_members(self, tx: Transaction, audience: Audience, user_ids: Collection[str]) -> set[str]:
        """Return the members of `user_ids` that are in the audience now."""
        ...

    async def load_engagement(
        self, tx: Transaction, user_ids: Collection[str], since: datetime
    ) -> Mapping[str, Mapping[str, ChannelEngagement]]:
        """Return user id → channel → what the user did since an instant. Users who did nothing are left out."""
        ...

    async def estimate_size(self, tx: Transaction, audience: Audience) -> int:
        """Count the audience. For estimates only, never while sending."""
        ...
