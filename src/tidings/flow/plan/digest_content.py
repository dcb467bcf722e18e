"""What a digest says on a channel: how many items its user receives there, and the first of them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tidings.model.notification import DigestPart, Notification

#: items that a message shows; `count` counts all
MAX_SHOWN_ITEMS = 10
_DEFAULT_URL = "/"


def build_digest_variables(count: int, shown: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return the variables of a digest's notification. shown: items as templates see them, with their `url`."""
    urls = {item["url"] for item in shown}
    return {"count": count, "items": list(shown), "url": urls.pop() if len(urls) == 1 else _DEFAULT_URL}


def select_digest_content(notification: Notification, parts: Sequence[DigestPart]) -> Notification:
    """Return a digest's notification as it is rendered for some of its parts.

    The texts of items are rendered when the digest closes, for the first ones on each channel. So fewer are shown if
    the user has turned some of these off since.
    """
    ids = {part.notification_id for part in parts}
    items = notification.variables["items"]
    assert isinstance(items, list), "as it was built"
    shown = [item for item in items if item["notificationId"] in ids][:MAX_SHOWN_ITEMS]
    return replace(notification, parts=parts, variables=build_digest_variables(len(parts), shown))
