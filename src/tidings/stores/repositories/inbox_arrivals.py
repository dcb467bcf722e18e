"""Decides the state in which inbox items are stored when they arrive. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import structs

from tidings.model.inbox import InboxChangeKind, InboxItem, InboxState
from tidings.stores.repositories.inbox_mapping import Ledger

#: (notification id, user id)
ItemKey = tuple[str, str]
#: (user id, collapse key)
CollapseKey = tuple[str, str]


def item_key(item: InboxItem) -> ItemKey:
    """Return the key by which an item is stored once."""
    return item.notification_id, item.user_id


def collapse_key(item: InboxItem) -> CollapseKey:
    """Return the key by which an item replaces others."""
    return item.user_id, item.collapse_key


@dataclass
class Arrivals:
    """What is stored of some users, and what arriving items change about it."""

    stored: Mapping[ItemKey, InboxItem]
    #: the current item of each collapse key
    current: dict[CollapseKey, InboxItem]
    recalled: Collection[str]
    ledger: Ledger
    now: datetime
    added: list[InboxItem] = field(default_factory=list)
    #: ids of rows without content that the added items take the place of
    expected_ids: list[str] = field(default_factory=list)
    replaced_ids: list[str] = field(default_factory=list)

    def add(self, items: Sequence[InboxItem]) -> None:
        """Decide the state of items, oldest notification first, and count them."""
        seen: set[ItemKey] = set()
        shown: dict[str, list[InboxItem]] = {}
        removed: dict[str, list[str]] = {}
        for item in sorted(items, key=lambda item: item.notification_id):
            stored = self.stored.get(item_key(item))
            if item_key(item) in seen or (stored is not None and stored.state is not InboxState.EXPECTED):
                continue
            seen.add(item_key(item))
            if stored is not None:
                self.expected_ids.append(stored.id)
                item = structs.replace(item, seen_at=stored.seen_at, read_at=stored.read_at)
            self._add_one(item, shown, removed)
        for user_id, arrived in shown.items():
            still_shown = [item for item in arrived if item.id not in self.replaced_ids]
            self.ledger.record(
                user_id,
                InboxChangeKind.ADDED,
                [item.id for item in still_shown],
                removed_ids=removed.get(user_id, []),
                items=still_shown,
            )

    def _add_one(self, item: InboxItem, shown: dict[str, list[InboxItem]], removed: dict[str, list[str]]) -> None:
        item, older = self._place(item)
        if older is not None:
            self.replaced_ids.append(older.id)
            removed.setdefault(item.user_id, []).append(older.id)
            if older.state is InboxState.ACTIVE:
                self.ledger.remove_active(item.user_id, [older])
        if item.state in {InboxState.ACTIVE, InboxState.SNOOZED, InboxState.ARCHIVED}:
            self.current[collapse_key(item)] = item
            shown.setdefault(item.user_id, []).append(item)
        if item.state is InboxState.ACTIVE:
            self.ledger.add_active(item.user_id, [item])
        self.added.append(item)

    def _place(self, item: InboxItem) -> tuple[InboxItem, InboxItem | None]:
        """Return an item with state and position, and the older item that it replaces."""
        if item.notification_id in self.recalled:
            return structs.replace(item, state=InboxState.RECALLED, recalled_at=self.now), None
        if item.expires_at is not None and item.expires_at <= self.now:
            return structs.replace(item, state=InboxState.EXPIRED), None
        older = self.current.get(collapse_key(item))
        if older is not None and older.notification_id > item.notification_id:
            return structs.replace(item, state=InboxState.REPLACED), None
        if older is None or item.renotify or older.category != item.category:
            return structs.replace(
                item, state=InboxState.ACTIVE, position=self.ledger.reserve_position(item.user_id)
            ), older
        return structs.replace(
            item,
            state=older.state,
            position=older.position,
            seen_at=item.seen_at or older.seen_at,
            read_at=item.read_at or older.read_at,
            archived_at=older.archived_at,
            snoozed_until=older.snoozed_until,
        ), older
