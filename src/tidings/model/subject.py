"""The subject of a notification: what it is about. Of the notifications on one subject only the newest counts.

A newer notification supersedes what is unsent of the older ones, and replaces what was sent where it is shown. If both
list their users, it supersedes the older one only for users that it lists too. Versions order the notifications on a
subject. Notifications of one version stand side by side, for different audiences.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

#: separates a subject from the subjects below it: `event:7` and `event:7/message:1`
SEPARATOR = "/"
MAX_KEY_LENGTH = 200
#: maximum size of `state` and of `previous_state` as JSON
MAX_STATE_BYTES = 4_096
#: largest version that a request gives. The automatic versions after it are exact in JavaScript too, a million of them
MAX_VERSION = 2**53 - 1 - 2**20

State = Mapping[str, object]


def list_path(key: str) -> list[str]:
    """Return a subject and the subjects above it, the most specific first."""
    found = [key]
    end = key.rfind(SEPARATOR)
    while end > 0:
        found.append(key[:end])
        end = key.rfind(SEPARATOR, 0, end)
    return found


@dataclass(frozen=True, slots=True)
class SubjectRequest:
    """The subject of a requested notification."""

    key: str
    #: None = one more than the newest notification on the subject
    version: int | None = None
    #: what the notification says of the subject, JSON values. A user who last heard the same is not notified again
    state: State | None = None
    #: what held before
    previous_state: State | None = None
    #: supersede the notifications on the subjects below this one as well
    includes_below: bool = False


@dataclass(frozen=True, slots=True)
class DefaultVersion:
    """The version of a notification whose subject names none."""

    version: int
    #: notifications whose versions differ by at most this much are for other users: neither supersedes the other
    span: int = 0


@dataclass(frozen=True, slots=True)
class SubjectNotification:
    """One notification in the history of a subject."""

    notification_id: str
    template_code: str
    version: int
    state: State | None
    previous_state: State | None
    is_cancelled: bool
    #: its fan-out is not complete
    is_planning: bool
    superseded_by: str | None
    #: some of it was unsent when it was superseded
    was_superseded_unsent: bool


@dataclass(frozen=True, slots=True)
class Supersession:
    """A newer notification on a subject, which supersedes the older ones."""

    key: str
    version: int
    notification_id: str
    #: the users that its audience lists; None = it describes them otherwise
    user_ids: frozenset[str] | None
    includes_below: bool = False
    #: versions that are lower by at most this much stand beside it
    span: int = 0

    @property
    def before(self) -> int:
        """Lower versions than this are older ones."""
        return self.version - self.span

    def has_users(self, user_ids: Collection[str] | None) -> bool:
        """Return whether an older notification is superseded for all of its users. user_ids: None = not listed."""
        return self.user_ids is None or user_ids is None or self.user_ids.issuperset(user_ids)


class SupersededNotification(NamedTuple):
    """What became of an older notification."""

    superseded_by: str
    #: some of it was unsent
    was_unsent: bool


class ReceiptStatus(StrEnum):
    """Whether a user knows what an earlier notification said."""

    #: it was sent or is being sent, or the user knew the same already
    INFORMED = "informed"
    #: planned, and superseded or refused before it was sent
    UNSENT = "unsent"
    #: a provider may have taken it without an answer, or it was skipped for a reason of the user
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PriorDelivery:
    """What became of an earlier notification for one user and target."""

    user_id: str
    notification_id: str
    status: ReceiptStatus


def find_informed_users(
    state: State | None,
    previous_state: State | None,
    older: Sequence[SubjectNotification],
    received: Iterable[PriorDelivery],
) -> Collection[str]:
    """Return the users to whom `state` is not new, because they last heard the same.

    older: the notifications on the subject before this one, newest first. A user knows what the newest notification
    said that was sent to the user. If none was sent since, the user knows what held before the first unsent one. A user
    is not returned if it is unknown whether a message arrived, or if a state between two notifications is missing.
    """
    if state is None or previous_state is None or not older:
        return ()
    by_user: dict[str, dict[str, set[ReceiptStatus]]] = {}
    for prior in received:
        by_user.setdefault(prior.user_id, {}).setdefault(prior.notification_id, set()).add(prior.status)
    return {user_id for user_id, found in by_user.items() if _known_state(previous_state, older, found) == state}


def _known_state(
    previous_state: State, older: Sequence[SubjectNotification], found: Mapping[str, set[ReceiptStatus]]
) -> State | None:
    """Return what a user knows of the subject, None if that is unknown. found: notification id → per target."""
    known: State | None = previous_state
    for _, version in groupby(older, key=lambda notification: notification.version):
        # notifications of one version are for different users
        planned = [notification for notification in version if notification.notification_id in found]
        if not planned:
            # the user was not in its audience, and learnt of it elsewhere
            break
        if planned[0].state != known:
            return None
        statuses = {status for notification in planned for status in found[notification.notification_id]}
        if ReceiptStatus.INFORMED in statuses:
            return planned[0].state
        if ReceiptStatus.UNKNOWN in statuses:
            return None
        known = planned[0].previous_state
    return known
