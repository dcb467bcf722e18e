"""What the notifications of an event say of it, and what must be said again because it was not sent. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from tidings.model.subject import SubjectNotification
from tidings.packs.events.event import Event, change_snapshot

#: the template of announcements
ANNOUNCEMENT = "NEW_EVENT"
#: the fields of an event that its notifications are about
STATE_FIELDS = ("status", "startDate", "endDate", "venue", "address")


@dataclass(frozen=True, slots=True)
class EventHistory:
    """The notifications about an event, newest first."""

    notifications: Sequence[SubjectNotification]
    #: of these: not every recipient was sent them, and no complete one has followed
    unsent: Sequence[SubjectNotification]
    #: the last announcement did not reach all of its recipients
    is_unannounced: bool = False

    @classmethod
    def build(cls, notifications: Sequence[SubjectNotification], being_sent: Collection[str]) -> Self:
        """Return the history. being_sent: ids of the notifications with unsent deliveries."""
        announcement = next((one for one in notifications if one.template_code == ANNOUNCEMENT), None)
        is_unannounced = announcement is not None and _is_incomplete(announcement, being_sent)
        return cls(notifications, _select_unsent(notifications, being_sent), is_unannounced)

    @property
    def has_announcement(self) -> bool:
        """Whether users were invited who may hold no ticket."""
        return any(one.template_code == ANNOUNCEMENT for one in self.notifications)

    @property
    def last_state(self) -> Mapping[str, object] | None:
        """What the newest notification said of the event, None if there is none."""
        return self.notifications[0].state if self.notifications else None

    def get_next_version(self, version: int) -> int:
        """Return the version of the next notification: the event's, unless a newer one is taken."""
        return max([version, *(one.version + 1 for one in self.notifications[:1])])


def event_subject(event_id: str) -> str:
    """Return the subject of an event's announcement, changes and cancellation."""
    return f"event:{event_id}"


def build_reminder_subject(event_id: str) -> str:
    """Return the subject of an event's reminder: below the event, so that a cancellation supersedes it."""
    return f"{event_subject(event_id)}/reminder"


def message_subject(event_id: str, message_id: str) -> str:
    """Return the subject of a message of the host: below the event, so that a cancellation supersedes it."""
    return f"{event_subject(event_id)}/message:{message_id}"


def build_state(event: Event) -> dict[str, object]:
    """Return what a notification of this version says of the event."""
    snapshot = change_snapshot(event)
    return {name: snapshot[name] for name in STATE_FIELDS}


def restore_unsent_changes(
    old: Mapping[str, object], new: Mapping[str, object], unsent: Sequence[SubjectNotification]
) -> Mapping[str, object]:
    """Return the old version to compare the new one with, so that changes that were not sent are described again.

    A field that this update does not change keeps the value from before the first unsent change. If the update changes
    it, those who missed the earlier change still read the new value.
    """
    merged = dict(old)
    for notification in unsent:
        previous = notification.previous_state or {}
        merged.update(
            {
                name: previous[name]
                for name in STATE_FIELDS
                if name in previous and old[name] == new[name] != previous[name]
            }
        )
    return merged


def _is_incomplete(notification: SubjectNotification, being_sent: Collection[str]) -> bool:
    # one that an operator cancelled was stopped on purpose, and is not sent again
    return notification.was_superseded_unsent or notification.notification_id in being_sent


def _select_unsent(history: Sequence[SubjectNotification], being_sent: Collection[str]) -> list[SubjectNotification]:
    unsent: list[SubjectNotification] = []
    for version in dict.fromkeys(one.version for one in history):
        incomplete = [one for one in history if one.version == version and _is_incomplete(one, being_sent)]
        if not incomplete:
            break
        unsent += incomplete
    return unsent
