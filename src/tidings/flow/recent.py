"""Notifications read lately, so that each batch of the same broadcast need not read them again."""

from collections import OrderedDict

from tidings.flow.intake.accept import explicit_ids
from tidings.model.notification import Notification

_SIZE = 512
#: one that names more users than this is read again instead of being kept: its list alone is some 100 KB
_LARGE = 1_000


class Recent:
    """A bounded cache by id; the least recently used goes first. One event loop only."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Notification] = OrderedDict()

    def get(self, notification_id: str) -> Notification | None:
        return self._kept.get(notification_id)

    def keep(self, notification: Notification) -> None:
        if len(explicit_ids(notification.audience)) > _LARGE:
            return
        self._kept[notification.id] = notification
        self._kept.move_to_end(notification.id)
        if len(self._kept) > _SIZE:
            self._kept.popitem(last=False)

    def drop(self, notification_id: str) -> None:
        self._kept.pop(notification_id, None)
