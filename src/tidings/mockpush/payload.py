"""Validation of decrypted messages as declarative push messages (Push API, `"web_push": 8030`)."""

import json
from collections.abc import Mapping

_TEXTS = ("body", "lang", "tag", "icon", "image", "badge")
_FLAGS = ("silent", "renotify", "requireInteraction")


class NotDeclarative(ValueError):
    """The payload is not a declarative push message; the text names the member and the rule."""


def read_payload(plaintext: bytes) -> Mapping[str, object]:
    """Return the parsed payload. Raises NotDeclarative naming the missing or invalid member."""
    try:
        payload = json.loads(plaintext)
    except (ValueError, RecursionError):
        raise NotDeclarative("the payload is not JSON") from None
    if not isinstance(payload, dict):
        raise NotDeclarative("the payload must be a JSON object")
    if payload.get("web_push") != 8030:
        raise NotDeclarative("web_push: must be 8030")
    notification = payload.get("notification")
    if not isinstance(notification, dict):
        raise NotDeclarative("notification: must be an object")
    _check_notification(notification)
    for holder, path in ((payload, "app_badge"), (notification, "notification.app_badge")):
        badge = holder.get("app_badge", 0)
        if isinstance(badge, bool) or not isinstance(badge, int) or badge < 0:
            raise NotDeclarative(f"{path}: must be a non-negative integer")
    return payload


def _check_notification(notification: Mapping[str, object]) -> None:
    _require_text(notification, "notification", "title", "navigate")
    for name in _TEXTS:
        if not isinstance(notification.get(name, ""), str):
            raise NotDeclarative(f"notification.{name}: must be a string")
    for name in _FLAGS:
        if not isinstance(notification.get(name, False), bool):
            raise NotDeclarative(f"notification.{name}: must be true or false")
    if notification.get("dir", "auto") not in ("auto", "ltr", "rtl"):
        raise NotDeclarative("notification.dir: must be auto, ltr or rtl")
    actions = notification.get("actions", [])
    if not isinstance(actions, list):
        raise NotDeclarative("notification.actions: must be a list")
    for index, action in enumerate(actions):
        path = f"notification.actions[{index}]"
        if not isinstance(action, dict):
            raise NotDeclarative(f"{path}: must be an object")
        _require_text(action, path, "action", "title", "navigate")


def _require_text(holder: Mapping[str, object], path: str, *names: str) -> None:
    for name in names:
        value = holder.get(name)
        if not isinstance(value, str) or not value:
            raise NotDeclarative(f"{path}.{name}: must be a non-empty string")
