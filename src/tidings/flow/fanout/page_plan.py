"""The plan of one page of one notification."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Self

from tidings.flow.fanout.limits import Limit
from tidings.flow.fanout.planner import Plan
from tidings.model.notification import Notification


@dataclass(frozen=True, slots=True)
class PagePlan:
    """The plan of one page of one notification, not stored yet."""

    before: Notification
    plan: Plan
    recipients: int
    #: the last user of the page
    cursor: str | None
    is_last: bool
    #: the limits that counted this page in the present transaction, each with the users for whom it did
    counted: tuple[tuple[Limit, frozenset[str]], ...] = ()

    def with_count(self, limit: Limit, user_ids: Collection[str]) -> Self:
        """Return the page plan after a limit counted it for users."""
        return replace(self, counted=(*self.counted, (limit, frozenset(user_ids))))

    @property
    def after(self) -> Notification:
        """The notification after this page is stored."""
        return self.before.with_progress(
            cursor=self.cursor,
            recipients=self.recipients,
            deliveries=len(self.plan.planned),
            skipped=len(self.plan.skipped),
            collected=len(self.plan.collected),
            is_complete=self.is_last,
        )
