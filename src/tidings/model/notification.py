"""A notification: one message for one audience. After it is accepted only its state, cursor and counts change."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from tidings.model.audience import Audience
from tidings.model.plan_options import NO_PLAN_OPTIONS, PlanOptions
from tidings.model.preference import ALL_SUBJECTS
from tidings.model.priority import Priority


class NotificationState(StrEnum):
    #: stored, nothing planned yet (it may wait for `send_at`)
    ACCEPTED = "accepted"
    #: some pages of the audience are planned, up to `cursor`
    FANNING_OUT = "fanning_out"
    #: every recipient has a delivery or a recorded skip
    FANNED_OUT = "fanned_out"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class DigestPart:
    """A notification that a digest contains, as far as consent to it depends on it."""

    notification_id: str
    subject: str | None
    #: JSON values only
    variables: Mapping[str, object]
    #: channels on which it is not shown, because a rule of the plan was against it when the digest closed
    left_out_on: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Notification:
    """An accepted notification."""

    id: str
    template_code: str
    template_version: int
    category: str
    audience: Audience
    #: JSON values only
    variables: Mapping[str, object]
    priority: Priority
    #: channels to use; empty = every channel the user has
    channels: tuple[str, ...]
    #: path or absolute URL that a click opens; None = the URL of the template
    action_url: str | None
    #: label of a button that opens `action_url`; None = no button
    action_text: str | None
    #: nothing is sent before this
    send_at: datetime
    #: nothing is sent after this
    expires_at: datetime
    created_at: datetime
    #: the cause, e.g. `event:ev-1:time_change`; shown to people and in explain
    source: str | None = None
    #: what it is about; see `tidings.model.subject`
    subject: str | None = None
    #: None without a subject
    subject_version: int | None = None
    #: what it says of the subject, and what held before; JSON values
    subject_state: Mapping[str, object] | None = None
    subject_previous_state: Mapping[str, object] | None = None
    #: the newer notification on the subject that superseded it
    superseded_by: str | None = None
    #: its steps, digest and throttle
    plan: PlanOptions = NO_PLAN_OPTIONS
    state: NotificationState = NotificationState.ACCEPTED
    #: keyset cursor, the id of the last planned user; None = fan-out has not begun, or is complete
    cursor: str | None = None
    recipients: int = 0
    deliveries: int = 0
    skipped: int = 0
    #: recipients for whom it was collected into a digest
    collected: int = 0
    #: the digest that it was made from
    digest_id: str | None = None
    #: what that digest contains, in its order; read where a notification is read by its id
    parts: Sequence[DigestPart] = ()

    @property
    def preference_subject(self) -> str | None:
        """The subject for which preferences are read. A digest is about those of its parts, so all are read."""
        return self.subject if self.digest_id is None else ALL_SUBJECTS

    @property
    def collapse_key(self) -> str:
        """Messages with the same key replace each other where they are shown: the subject, or else the notification."""
        return self.subject or self.id

    def with_progress(
        self,
        *,
        cursor: str | None,
        recipients: int,
        deliveries: int,
        skipped: int,
        collected: int = 0,
        is_complete: bool,
    ) -> Self:
        """Return the notification after one more page: state and cursor updated, counts added."""
        return replace(
            self,
            state=NotificationState.FANNED_OUT if is_complete else NotificationState.FANNING_OUT,
            # a complete fan-out needs no cursor, and a user id is not stored without need
            cursor=None if is_complete else cursor,
            recipients=self.recipients + recipients,
            deliveries=self.deliveries + deliveries,
            skipped=self.skipped + skipped,
            collected=self.collected + collected,
        )


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why a notification is not sent any more."""

    #: the newer notification on its subject; None = it was cancelled
    superseded_by: str | None = None


@dataclass(frozen=True, slots=True)
class NotificationCounts:
    """The progress of a notification."""

    recipients: int
    deliveries: int
    skipped: int
    #: recipients for whom it was collected into a digest
    collected: int = 0
    #: of these: in digests that are open
    collecting: int = 0
    #: deliveries per delivery state
    by_state: Mapping[str, int] = field(default_factory=dict)
    #: later steps that can still start, of all recipients
    waiting_steps: int = 0

    @property
    def open(self) -> int:
        """The number of deliveries, later steps and items of digests that are not final."""
        unsent = self.by_state.get("pending", 0) + self.by_state.get("sending", 0)
        return unsent + self.waiting_steps + self.collecting
