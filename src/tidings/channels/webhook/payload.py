"""The payload of a webhook: `{type, timestamp, data}` as JSON (Standard Webhooks 1.0). Pure."""

import re
from datetime import UTC, datetime, timedelta

import msgspec

from tidings.errors import ValidationFailed
from tidings.model.template import RenderedMessage
from tidings.ports.channel import ComposeContext

#: bytes of a payload; receivers may refuse larger ones
MAX_PAYLOAD = 20_000
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Action(msgspec.Struct, frozen=True, rename="camel"):
    action: str
    title: str
    navigate: str


class _Data(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    notification_id: str
    delivery_id: str
    user_id: str
    category: str
    #: the same for every notification about one thing; a later one replaces an earlier one
    collapse_key: str
    #: order among the notifications with this collapse key: drop one that is lower than one received before
    sequence: int
    title: str
    body: str
    url: str
    lang: str
    expires_at: str
    actions: tuple[_Action, ...] = ()
    #: the texts that the template has for this channel
    fields: dict[str, str] = msgspec.field(default_factory=dict)


class _Payload(msgspec.Struct, frozen=True):
    type: str
    timestamp: str
    data: _Data


def encode_payload(content: RenderedMessage, context: ComposeContext, now: datetime) -> bytes:
    """Return the payload of one message. `type` is the category, `timestamp` when the notification was accepted.

    The bytes are the same for every attempt: the timestamp is taken from the notification's id, from `now` only if the
    id has no time. Raises ValidationFailed for `body` if the payload has more than 20 000 bytes.
    """
    data = _Data(
        notification_id=context.notification_id,
        delivery_id=context.delivery_id,
        user_id=context.user_id,
        category=context.category.code,
        collapse_key=context.collapse_key,
        sequence=context.sequence,
        title=content.title,
        body=content.body,
        url=content.url,
        lang=content.lang,
        expires_at=_format_instant(context.expires_at),
        actions=tuple(_Action(action.action, action.title, action.navigate) for action in content.actions),
        fields=dict(content.fields),
    )
    at = _extract_time(context.notification_id) or now
    try:
        payload = msgspec.json.encode(_Payload(context.category.code, _format_instant(at), data))
    except UnicodeEncodeError:
        raise ValidationFailed.for_field(
            "body", "contains half of a surrogate pair, which is not a character"
        ) from None
    if len(payload) > MAX_PAYLOAD:
        raise ValidationFailed.for_field(
            "body",
            f"the webhook payload has {len(payload)} bytes; shorten the texts so that it has at most {MAX_PAYLOAD}",
        )
    return payload


def _extract_time(notification_id: str) -> datetime | None:
    """Return the creation time of a UUIDv7 (RFC 9562 §5.7), None for another id."""
    if not _UUID7.fullmatch(notification_id):
        return None
    return _EPOCH + timedelta(milliseconds=int(notification_id[:13].replace("-", ""), 16))


def _format_instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
