"""Response models for feeds."""

from datetime import datetime
from typing import Self

from tidings.inbox_service import InboxPage
from tidings.model.inbox import InboxCounts, InboxItem
from tidings.schemas.response_models import ResponseModel


class InboxActionResponse(ResponseModel):
    """A button of an item."""

    action: str
    title: str
    #: absolute URL
    navigate: str


class InboxItemResponse(ResponseModel):
    """One item of the calling user's feed. Texts are plain text, not HTML."""

    id: str
    notification_id: str
    category: str
    title: str
    body: str
    #: absolute URL that a click opens
    url: str
    actions: list[InboxActionResponse]
    #: BCP 47 tag of the text
    lang: str
    direction: str
    priority: str
    #: an item replaces older ones with the same key
    collapse_key: str
    #: active, snoozed, archived; in an export also expected, expired, recalled, replaced
    state: str
    created_at: datetime
    expires_at: datetime | None
    seen_at: datetime | None
    read_at: datetime | None
    archived_at: datetime | None
    snoozed_until: datetime | None

    @classmethod
    def from_item(cls, item: InboxItem) -> Self:
        """Return the response for an item."""
        return cls.model_validate(item)


class InboxCountsResponse(ResponseModel):
    """The counters of the calling user's whole feed."""

    #: active items that were not shown yet
    unseen: int
    #: active items that were not read yet
    unread: int
    #: rises with each change; counters of a lower version are outdated
    version: int

    @classmethod
    def from_counts(cls, counts: InboxCounts) -> Self:
        """Return the response for counters."""
        return cls.model_validate(counts)


class InboxPageResponse(ResponseModel):
    """A page of the calling user's feed, the latest arrival first."""

    items: list[InboxItemResponse]
    next_cursor: str | None
    #: the counters of the same moment
    counts: InboxCountsResponse

    @classmethod
    def from_page(cls, page: InboxPage, limit: int) -> Self:
        """Return the response for a page."""
        items = page.items[:limit]
        return cls(
            items=[InboxItemResponse.from_item(item) for item in items],
            next_cursor=str(items[-1].position) if len(page.items) > limit else None,
            counts=InboxCountsResponse.from_counts(page.counts),
        )
