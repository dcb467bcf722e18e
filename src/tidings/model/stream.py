"""Live streams of events: the event as the room sees it, its settings, and the events about its state."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """The event of a stream."""

    id: str
    title: str
    #: None = unknown
    host_id: str | None
    #: whether it is public; a draft and a cancelled event are not
    is_public: bool


class CountBy(StrEnum):
    """What the number of viewers counts."""

    USER = "user"
    CONNECTION = "connection"


class StreamAccess(StrEnum):
    """Who may watch the stream of a public event. Its host always may."""

    #: every user with a valid token
    USERS = "users"
    #: users with an active ticket of the event
    TICKET_HOLDERS = "ticket_holders"


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """The settings of a room. None = those of the host, else those of the installation."""

    grace_seconds: float | None = None
    count_by: CountBy | None = None
    access: StreamAccess | None = None


@dataclass(frozen=True, slots=True)
class StreamChange:
    """A change of a room, for the browsers of its host."""

    #: the host
    user_id: str
    event_id: str
    #: `live`, `ended`, `joined` or `left`
    kind: str
    epoch: int | None = None
    #: of the viewer who joined or left
    viewer_id: str | None = None


@dataclass(frozen=True, slots=True)
class StreamEpoch:
    """One life of a room, from its first viewer to its end."""

    event_id: str
    epoch: int
    started_at: datetime
    last_seen_at: datetime | None = None
    #: None = it has not ended
    ended_at: datetime | None = None
    host_id: str | None = None
    #: what became of the notice to the host
    notice: str | None = None
    notice_due_at: datetime | None = None
    notification_id: str | None = None
