"""Content as Declarative Web Push JSON, which also feeds the service worker of browsers that lack it (MISSION B6)."""

import hashlib
import unicodedata
from functools import lru_cache

import msgspec

from tidings.channels.webpush.encryption import DEFAULT_CAP
from tidings.model.template import Content

#: what `shrink` aims at after a 413: room for title, target and two lines of text
SMALL = 1024
_ELLIPSIS = "…"
_JOINERS = "\u200d\ufe0e\ufe0f"


class _Action(msgspec.Struct, frozen=True):
    action: str
    title: str
    navigate: str


class _Data(msgspec.Struct, frozen=True, rename="camel"):
    notification_id: str
    delivery_id: str


class _Notification(msgspec.Struct, frozen=True, omit_defaults=True):
    title: str
    navigate: str
    body: str
    lang: str
    dir: str
    tag: str
    data: _Data
    actions: tuple[_Action, ...] = ()


class _Payload(msgspec.Struct, frozen=True):
    #: the magic number that makes a push message declarative: the RFC of Web Push
    web_push: int
    notification: _Notification


def encode(content: Content, *, notification_id: str, delivery_id: str, cap: int = DEFAULT_CAP) -> bytes:
    """Return the JSON of one message, at most `cap` bytes: what is too long loses actions, then the end of its text.

    `tag` is the notification's id, so a repeated push replaces the first one on the device.
    """
    payload = _Payload(
        8030,
        _Notification(
            title=content.title,
            navigate=content.url,
            body=content.body,
            lang=content.lang,
            dir=content.direction,
            tag=notification_id,
            data=_Data(notification_id, delivery_id),
            actions=tuple(_Action(a.action, a.title, a.navigate) for a in content.actions),
        ),
    )
    try:
        encoded = msgspec.json.encode(payload)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_without_lone_surrogates(msgspec.to_builtins(payload)))
    if len(encoded) <= cap:
        return encoded
    return shrink(encoded, cap) or encoded


def shrink(payload: bytes, cap: int = SMALL) -> bytes | None:
    """Return the payload in at most `cap` bytes, None if that cannot be or it is no smaller.

    Image and actions go first, then the end of the body, then the end of the title.
    """
    try:
        message = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return None
    if not isinstance(message, dict) or not isinstance(notification := message.get("notification"), dict):
        return None
    for optional in ("image", "actions"):
        notification.pop(optional, None)
    for field in ("body", "title"):
        excess = len(msgspec.json.encode(message)) - cap
        text = notification.get(field)
        if excess > 0 and isinstance(text, str):
            notification[field] = shorten(text, max(0, _weight(text) - excess))
    smaller = msgspec.json.encode(message)
    return smaller if len(smaller) <= cap and len(smaller) < len(payload) else None


def shorten(text: str, limit: int) -> str:
    """Return the text cut to `limit` bytes of JSON with `…` at the end, never inside a character people see as one."""
    if _weight(text) <= limit:
        return text
    room = limit - _weight(_ELLIPSIS)
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _weight(text[:middle]) <= room else (low, middle - 1)
    while low and _continues(text, low):
        low -= 1
    return text[:low].rstrip() + _ELLIPSIS if room >= 0 else ""


@lru_cache(maxsize=256)  # a broadcast asks once for each message
def topic_for(notification_id: str) -> str:
    """Return the `Topic` of a notification: 32 characters of the URL-safe alphabet (RFC 8030 §5.4).

    A repeat replaces the first one while it waits at the service. The length is a multiple of 4 because Apple decodes
    the topic as base64.
    """
    return hashlib.sha256(notification_id.encode()).hexdigest()[:32]


def _weight(text: str) -> int:
    return len(msgspec.json.encode(text)) - 2


def _continues(text: str, index: int) -> bool:
    here = text[index]
    return (
        text[index - 1] == "\u200d"
        or here in _JOINERS
        or unicodedata.combining(here) != 0
        or unicodedata.category(here) in ("Mn", "Mc", "Me")
        or "\U0001f3fb" <= here <= "\U0001f3ff"
    )


def _without_lone_surrogates(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case dict():
            return {key: _without_lone_surrogates(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_without_lone_surrogates(inner) for inner in value]
    return value
