"""The plan of one page of one notification."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from tidings.flow.fanout.limits import Limit
from tidings.flow.fanout.planner import Plan
from tidings.model.awaited_event import NO_EVENTS, AwaitedEvent, OccurredEvents, build_awaited_of_item
from tidings.model.channel_engagement import EngagementByUser
from tidings.model.delivery import Recipient
from tidings.model.notification import Notification


@dataclass(frozen=True, slots=True)
class PagePlan:
    """The plan of one page of one notification, not stored yet."""

    before: Notification
    plan: Plan
    page: Sequence[Recipient]
    #: the last user of the page
    cursor: str | None
    is_last: bool
    #: users of the page who last heard the same of the notification's subject
    informed: Collection[str] = ()
    #: what they did recently, if the notification selects channels by it
    engagement: EngagementByUser = field(default_factory=dict)
    #: user id → domain events that came before the page was planned
    happened: Mapping[str, OccurredEvents] = field(default_factory=dict)
    #: the limits that counted this page in the present transaction, each with the users for whom it did
    counted: tuple[tuple[Limit, frozenset[str]], ...] = ()

    def with_count(self, limit: Limit, user_ids: Collection[str]) -> Self:
        """Return the page plan after a limit counted it for users."""
        return replace(self, counted=(*self.counted, (limit, frozenset(user_ids))))

    def has_limit(self, limit: Limit) -> bool:
        """Return whether a limit counted this page in the present transaction."""
        return any(limit == counted for counted, _ in self.counted)

    @property
    def after(self) -> Notification:
        """The notification after this page is stored."""
        return self.before.with_progress(
            cursor=self.cursor,
            recipients=len(self.page),
            deliveries=len(self.plan.planned),
            skipped=len(self.plan.skipped),
            collected=len(self.plan.collected),
            is_complete=self.is_last,
        )

    def list_awaited_of_items(self) -> list[AwaitedEvent]:
        """Return the domain events that the notification awaits while digests collect it."""
        return [
            event
            for item in self.plan.collected
            for event in build_awaited_of_item(
                self.before, item.key.user_id, self.happened.get(item.key.user_id, NO_EVENTS)
            )
        ]
