"""One thing to tell one audience. Never edited after it was accepted; only its state and cursor move."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from tidings.model.audience import Audience
from tidings.model.priority import Priority


class NotificationState(StrEnum):
    #: stored, nobody targeted yet (it may wait for `send_at`)
    ACCEPTED = "accepted"
    #: some pages of the audience are planned; `cursor` says how far
    FANNING_OUT = "fanning_out"
    #: every recipient has a delivery or a recorded skip
    FANNED_OUT = "fanned_out"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Notification:
    """One accepted request to notify."""

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
    #: path or absolute URL a click opens; None = the template's
    action_url: str | None
    #: label of a button that opens `action_url`; None = no button
    action_text: str | None
    #: not before
    send_at: datetime
    #: nothing is sent after this
    expires_at: datetime
    created_at: datetime
    #: what caused it, e.g. `event:ev-1:time_change`; for people and for explain
    source: str | None = None
    state: NotificationState = NotificationState.ACCEPTED
    #: id of the last user planned; None = none yet, or all are
    cursor: str | None = None
    recipients: int = 0
    deliveries: int = 0
    skipped: int = 0

    def moved(self, *, cursor: str | None, recipients: int, deliveries: int, skipped: int, done: bool) -> Self:
        """Return the notification after one more page was planned."""
        return replace(
            self,
            state=NotificationState.FANNED_OUT if done else NotificationState.FANNING_OUT,
            # a finished fan-out needs no cursor, and nothing is kept about people that is not needed
            cursor=None if done else cursor,
            recipients=self.recipients + recipients,
            deliveries=self.deliveries + deliveries,
            skipped=self.skipped + skipped,
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a notification has come."""

    recipients: int
    deliveries: int
    skipped: int
    #: deliveries per delivery state
    by_state: Mapping[str, int] = field(default_factory=dict)
