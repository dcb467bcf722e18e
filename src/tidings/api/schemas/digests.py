"""Response models of digests and of what they collected."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import JsonValue

from tidings.model.digest import Digest, DigestItem
from tidings.schemas.response_models import ResponseModel


class DigestResponse(ResponseModel):
    """A digest."""

    id: str
    user_id: str
    template_code: str
    category: str
    #: the value of the key expression; empty = one digest per user and template
    key: str
    #: `open`, `closed`, or `empty`: nothing was left when it closed
    state: str
    #: `empty_digest`; null unless it is empty
    reason: str | None
    #: notifications that it collected, those that were left out when it closed included
    count: int
    opened_at: datetime
    closes_at: datetime
    closed_at: datetime | None
    #: the notification that it became
    notification_id: str | None

    @classmethod
    def from_digest(cls, digest: Digest) -> "DigestResponse":
        """Return the response for a digest."""
        return cls(
            id=digest.id,
            user_id=digest.key.user_id,
            template_code=digest.key.template_code,
            category=digest.category,
            key=digest.key.key,
            state=digest.state.value,
            reason=None if digest.reason is None else digest.reason.value,
            count=digest.item_count,
            opened_at=digest.opened_at,
            closes_at=digest.closes_at,
            closed_at=digest.closed_at,
            notification_id=digest.notification_id,
        )


class DigestPage(ResponseModel):
    """Digests, newest first."""

    items: list[DigestResponse]
    next_cursor: str | None


class CollectedResponse(ResponseModel):
    """One recipient for whom a digest collected a notification."""

    user_id: str
    digest_id: str
    #: `collected`, `digested` or `left_out`
    state: str
    #: why it was left out
    reason: str | None
    detail: dict[str, JsonValue]
    #: when the digest closes, or closed
    closes_at: datetime
    #: the notification that the digest became
    notification_id: str | None


def list_collected_responses(items: Sequence[tuple[DigestItem, Digest]]) -> list[CollectedResponse]:
    """Return the responses for the items of a notification."""
    return [
        CollectedResponse(
            user_id=item.user_id,
            digest_id=digest.id,
            state=item.state.value,
            reason=None if item.reason is None else item.reason.value,
            detail=dict(item.detail),
            closes_at=digest.closed_at or digest.closes_at,
            notification_id=digest.notification_id,
        )
        for item, digest in items
    ]


class DigestItemExport(ResponseModel):
    """One item of a digest."""

    notification_id: str
    accepted_at: datetime
    #: `collected`, `digested` or `left_out`
    state: str
    #: why it was left out
    reason: str | None


class DigestExport(DigestResponse):
    """A digest with its items."""

    items: list[DigestItemExport]

    @classmethod
    def from_digest_and_items(cls, digest: Digest, items: Sequence[DigestItem]) -> "DigestExport":
        """Return the export of a digest."""
        exported = [DigestItemExport.model_validate(item) for item in items]
        return cls(**DigestResponse.from_digest(digest).model_dump(), items=exported)
