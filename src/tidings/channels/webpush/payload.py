"""The payload of a push: Declarative Web Push JSON. In browsers without support for it the service worker reads it."""

import hashlib
from datetime import datetime
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

from tidings.channels.webpush.encryption import DEFAULT_MAX_PAYLOAD
from tidings.channels.webpush.graphemes import find_boundary
from tidings.channels.webpush.receipts import MessageKey, ReceiptPolicy
from tidings.model.template import RenderedMessage

#: bytes of the body that a long title does not displace: about two lines
BODY_RESERVE = 120
#: bytes of text below which a long link is replaced by the front page of its site
MIN_TEXT_SIZE = 60
_ELLIPSIS = "…"


class _Action(msgspec.Struct, frozen=True):
    action: str
    title: str
    navigate: str


class _Receipts(msgspec.Struct, frozen=True):
    token: str
    #: what the service worker reports
    events: tuple[str, ...]


class _Data(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    notification_id: str
    delivery_id: str
    #: milliseconds since 1970: after that the service worker shows a neutral text
    expires_at: int
    receipts: _Receipts | None = None


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
    #: 8030, the number of the RFC: marks a push message as declarative
    web_push: int
    notification: _Notification


def encode_payload(
    content: RenderedMessage,
    *,
    notification_id: str,
    delivery_id: str,
    tag: str,
    expires_at: datetime,
    category: str = "",
    receipts: ReceiptPolicy | None = None,
    max_bytes: int = DEFAULT_MAX_PAYLOAD,
) -> bytes:
    """Return the JSON of one message in at most `max_bytes` bytes, shortened by `shrink` if necessary.

    tag: a push replaces an earlier one with the same tag on the device. receipts: what the service worker reports of
    the category.
    """
    message = MessageKey(notification_id, delivery_id, int(expires_at.timestamp() * 1000))
    events = () if receipts is None else receipts.list_events(category)
    reported = None if receipts is None or not events else _Receipts(receipts.sign(message), tuple(events))
    payload = _Payload(
        8030,
        _Notification(
            title=content.title,
            navigate=content.url,
            body=content.body,
            lang=content.lang,
            dir=content.direction,
            tag=tag,
            data=_Data(notification_id, delivery_id, message.expires_at, reported),
            actions=tuple(_Action(a.action, a.title, a.navigate) for a in content.actions),
        ),
    )
    try:
        encoded = msgspec.json.encode(payload)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_replace_lone_surrogates(msgspec.to_builtins(payload)))
    if len(encoded) <= max_bytes:
        return encoded
    return shrink(encoded, max_bytes) or encoded


def shrink(payload: bytes, max_bytes: int) -> bytes | None:
    """Return the payload in at most `max_bytes` bytes, None if it cannot be made smaller.

    The image and the actions are removed first, then the body is truncated, then the title. A body that is not empty
    keeps some text, also beside a long title. A link that leaves no bytes for text is replaced by the front page of its
    site: the text without the link is worth more than no message.
    """
    try:
        message = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return None
    if not isinstance(message, dict) or not isinstance(notification := message.get("notification"), dict):
        return None
    for optional in ("image", "actions"):
        notification.pop(optional, None)
    if _text_budget(message, notification, max_bytes) < MIN_TEXT_SIZE:
        notification["navigate"] = _front_page(str(notification.get("navigate", "")))
    title, body = str(notification.get("title", "")), str(notification.get("body", ""))
    budget = _text_budget(message, notification, max_bytes)
    if _json_size(title) + _json_size(body) > budget:
        reserved = min(_json_size(body), BODY_RESERVE, max(0, budget) // 2)
        title = notification["title"] = truncate_text(title, budget - reserved)
        notification["body"] = truncate_text(body, budget - _json_size(title))
    smaller = msgspec.json.encode(message)
    return smaller if len(smaller) <= max_bytes and len(smaller) < len(payload) else None


def _text_budget(message: dict[str, object], notification: dict[str, object], max_bytes: int) -> int:
    """Return how many bytes title and body may have together."""
    texts = sum(_json_size(str(notification.get(field, ""))) for field in ("title", "body"))
    return max_bytes - (len(msgspec.json.encode(message)) - texts)


def _front_page(link: str) -> str:
    try:
        parts = urlsplit(link)
    except ValueError:
        return "/"
    return f"{parts.scheme}://{parts.netloc}/" if parts.scheme and parts.netloc else "/"


def truncate_text(text: str, limit: int) -> str:
    """Return the text truncated to `limit` bytes of JSON, with `…` at the end and never inside a character."""
    if _json_size(text) <= limit:
        return text
    available = limit - _json_size(_ELLIPSIS)
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _json_size(text[:middle]) <= available else (low, middle - 1)
    low = find_boundary(text, low)
    return text[:low].rstrip() + _ELLIPSIS if available >= 0 else ""


@lru_cache(maxsize=256)  # a broadcast needs the same topic for each delivery
def build_topic(collapse_key: str) -> str:
    """Return the `Topic` of a message: 32 characters of the URL-safe alphabet (RFC 8030 §5.4).

    A push replaces an earlier one with the same topic while the push service stores it. The length is a multiple of 4
    because Apple decodes the topic as base64.
    """
    return hashlib.sha256(collapse_key.encode()).hexdigest()[:32]


def _json_size(text: str) -> int:
    return len(msgspec.json.encode(text)) - 2


def _replace_lone_surrogates(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case dict():
            return {key: _replace_lone_surrogates(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_replace_lone_surrogates(inner) for inner in value]
    return value
