"""Decides whether the host is notified of the end of a stream, at once or grouped with other ends. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from tidings.model import audience
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.stream import StreamEpoch, StreamEvent

#: after a notice, further ends of the same host are collected for this long
GROUP_WINDOW = timedelta(minutes=10)
#: ends of one stream within `FLAP_WINDOW` that make it unstable
FLAP_COUNT = 3
FLAP_WINDOW = timedelta(hours=1)
#: the notice of an unstable stream waits until it has been stable for this long, at most `FLAP_WINDOW`
STABLE_FOR = timedelta(minutes=10)
#: a notice is worthless later
NOTICE_LIFETIME = timedelta(days=1)
#: ends named in a grouped notice
MAX_NAMED = 20


class Notice(StrEnum):
    """What became of the notice about an end."""

    SENT = "sent"
    #: part of a notice that named several ends, or will be
    GROUPED = "grouped"
    #: the stream was live again when the grouped notice was due
    LIVE_AGAIN = "live_again"
    EVENT_MISSING = "event_missing"
    EVENT_NOT_PUBLIC = "event_not_public"
    HOST_UNKNOWN = "host_unknown"
    NOT_ACCEPTED = "not_accepted"


@dataclass(frozen=True, slots=True)
class NotifyNow:
    """The host is notified at once."""


@dataclass(frozen=True, slots=True)
class NotifyLater:
    """The end is collected for a grouped notice."""

    due_at: datetime


@dataclass(frozen=True, slots=True)
class NoNotice:
    """The host is not notified, for a reason that is recorded."""

    reason: Notice


def decide_notice(
    event: StreamEvent | None,
    *,
    has_host: bool,
    recent: Sequence[StreamEpoch],
    event_id: str,
    now: datetime,
) -> NotifyNow | NotifyLater | NoNotice:
    """Decide on the end of an epoch.

    event: None if it was deleted. has_host: whether its host is a known user. recent: the host's earlier ends within
    `FLAP_WINDOW`, of all events.
    """
    if event is None:
        return NoNotice(Notice.EVENT_MISSING)
    if not event.is_public:
        return NoNotice(Notice.EVENT_NOT_PUBLIC)
    if not has_host:
        return NoNotice(Notice.HOST_UNKNOWN)
    ends = [epoch for epoch in recent if epoch.ended_at is not None and epoch.ended_at > now - FLAP_WINDOW]
    own_ends = [epoch.ended_at for epoch in ends if epoch.event_id == event_id and epoch.ended_at is not None]
    if len(own_ends) + 1 >= FLAP_COUNT:
        return NotifyLater(min(now + STABLE_FOR, min(own_ends) + FLAP_WINDOW))
    if waiting := [epoch.notice_due_at for epoch in ends if epoch.notice_due_at is not None]:
        return NotifyLater(max(now, min(waiting)))
    sent = [epoch.ended_at for epoch in ends if epoch.notice == Notice.SENT and epoch.ended_at is not None]
    if sent and now < max(sent) + GROUP_WINDOW:
        return NotifyLater(max(sent) + GROUP_WINDOW)
    return NotifyNow()


def build_end_notice(event: StreamEvent, epoch: int, now: datetime) -> NotifyRequest:
    """Return the notification of the host about the end of one epoch."""
    return NotifyRequest(
        template_code="STREAM_ENDED",
        audience=stream_host(event.id, epoch),
        variables={"eventId": event.id, "eventTitle": event.title, "streams": [], "interruptions": 1},
        action_url=f"/events/{event.id}",
        action_text="View Event Dashboard",
        priority=Priority.NORMAL,
        expires_at=now + NOTICE_LIFETIME,
        source=f"stream:{event.id}:{epoch}",
    )


def build_grouped_notice(ends: Sequence[tuple[StreamEvent, int, int]], now: datetime) -> NotifyRequest:
    """Return one notification about several ends. ends: event, its last epoch, number of its ends; at least one."""
    event, epoch, _ = ends[0]
    audiences: audience.Audience = stream_host(event.id, epoch)
    for other, other_epoch, _ in ends[1:MAX_NAMED]:
        audiences = audiences | stream_host(other.id, other_epoch)
    return NotifyRequest(
        template_code="STREAM_ENDED",
        audience=audiences,
        variables={
            "eventId": event.id,
            "eventTitle": event.title,
            "streams": [{"title": one.title, "ends": count} for one, _, count in ends[:MAX_NAMED]],
            "interruptions": sum(count for _, _, count in ends),
        },
        action_url=f"/events/{event.id}" if len(ends) == 1 else "/events",
        action_text="View Event Dashboard",
        priority=Priority.NORMAL,
        expires_at=now + NOTICE_LIFETIME,
        source=f"stream:{event.id}:{epoch}:grouped",
    )


def stream_host(event_id: str, epoch: int) -> audience.NamedSet:
    """Return the audience of a notice: the host, while no later epoch has begun."""
    return audience.NamedSet("stream_host", {"eventId": event_id, "epoch": str(epoch)})
