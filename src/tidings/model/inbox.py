"""Inbox items: the notifications in a user's feed, the states of an item, and the changes of a feed."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from tidings.model.priority import Priority
from tidings.model.template import MessageAction

#: largest number of items that one call marks
MAX_MARKED_ITEMS = 500


class InboxState(StrEnum):
    """Where an item is. Whether it is seen and read is independent of it."""

    #: seen or read before it arrived; has no content yet
    EXPECTED = "expected"
    #: in the feed. Only active items are counted
    ACTIVE = "active"
    SNOOZED = "snoozed"
    ARCHIVED = "archived"
    # the following are not shown any more
    EXPIRED = "expired"
    RECALLED = "recalled"
    #: a newer item with the same collapse key took its place
    REPLACED = "replaced"


class InboxView(StrEnum):
    """A list of items of a user."""

    UNREAD = "unread"
    #: the feed: active items, read and unread
    ALL = "all"
    ARCHIVED = "archived"


class InboxItem(msgspec.Struct, frozen=True):
    """One notification in the feed of one user. Texts are plain text."""

    #: UUIDv7; id of the delivery that brought it
    id: str
    user_id: str
    notification_id: str
    category: str
    title: str
    body: str
    #: absolute URL that a click opens
    url: str
    #: BCP 47 tag of the text
    lang: str
    priority: Priority
    #: an item replaces older ones of the user with the same key
    collapse_key: str
    created_at: datetime
    #: None = never
    expires_at: datetime | None
    direction: str = "ltr"
    actions: tuple[MessageAction, ...] = ()
    #: False: an item that replaces one of its category keeps its position, and whether it is seen, read, snoozed or
    #: archived. One of another category always arrives as new
    renotify: bool = True
    # assigned by the store
    state: InboxState = InboxState.ACTIVE
    #: order of arrival in the user's feed; an item that returns from a snooze arrives again
    position: int = 0
    seen_at: datetime | None = None
    read_at: datetime | None = None
    archived_at: datetime | None = None
    snoozed_until: datetime | None = None
    recalled_at: datetime | None = None


class InboxCounts(msgspec.Struct, frozen=True):
    """The counters of a user's feed."""

    #: active items that were not shown
    unseen: int = 0
    #: active items that were not read
    unread: int = 0
    #: rises with each change of the feed
    version: int = 0


class InboxChangeKind(StrEnum):
    """What happened to items of a feed."""

    ADDED = "added"
    SEEN = "seen"
    READ = "read"
    #: all items up to one were read
    READ_ALL = "read_all"
    UNREAD = "unread"
    ARCHIVED = "archived"
    UNARCHIVED = "unarchived"
    SNOOZED = "snoozed"
    #: came back from a snooze, at its time or earlier
    RETURNED = "returned"
    #: expired, recalled or deleted
    REMOVED = "removed"


class InboxChange(msgspec.Struct, frozen=True):
    """One change of a user's feed, with the counters after it."""

    user_id: str
    kind: InboxChangeKind
    counts: InboxCounts
    #: the items that changed; empty if `kind` is `read_all`
    item_ids: Sequence[str] = ()
    #: items that the added ones replace
    removed_ids: Sequence[str] = ()
    #: the added or returned items
    items: Sequence[InboxItem] = ()
    #: id of the newest item that was read, if `kind` is `read_all`
    up_to: str | None = None
