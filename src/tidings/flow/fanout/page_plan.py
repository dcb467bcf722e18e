"""The plan of one page of one notification."""

from dataclasses import dataclass

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
