"""What a service worker may report of a message, and the token with which it does so.

A service worker has no user token. The encrypted payload carries a code that only this server can compute, and that
holds for one delivery until a week after its message expired:

    token = HMAC-SHA256(key derived from the secret key, lines: notification id, delivery id, expiresAt), 16 bytes

Only the browser that decrypted the message knows it, so nobody reports for somebody else.
"""

import hmac
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from tidings.channels.signed_token import compute_signature
from tidings.channels.webpush import base64url
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus

#: how long after the end of a message its events are accepted: it may stay on the screen, and the device may be offline
REPORT_GRACE: Final = timedelta(days=7)
#: name under which the events of browsers stand beside those of providers
PROVIDER: Final = "browser"
_PURPOSE: Final = b"tidings push receipt v1"
#: bytes of a token
_TOKEN_LENGTH: Final = 16


class ReceiptEvent(StrEnum):
    """What happened to a notification on a device."""

    #: the browser displayed it, which is no act of a person
    SHOWN = "shown"
    #: a person opened it, or pressed one of its buttons
    CLICKED = "clicked"
    #: a person dismissed it
    CLOSED = "closed"


_CAUSES: Final = {
    ReceiptEvent.SHOWN: EventCause.NONE,
    ReceiptEvent.CLICKED: EventCause.CLICK,
    ReceiptEvent.CLOSED: EventCause.CLOSE,
}


class MessageKey(msgspec.Struct, frozen=True):
    """The message that a receipt is about, as in the data of its payload."""

    notification_id: str
    delivery_id: str
    #: milliseconds since 1970
    expires_at: int


class ReceiptPolicy:
    """Decides which events the messages of each category report, and signs the tokens."""

    def __init__(self, secret_key: str, *, shown: Collection[str] = (), clicks: Collection[str] = ()) -> None:
        """shown, clicks: codes of the categories in which they are reported."""
        self._secret_key = secret_key
        self.shown = frozenset(shown)
        self.clicks = frozenset(clicks)

    def list_events(self, category: str) -> Sequence[ReceiptEvent]:
        """Return what the messages of a category report."""
        shown = (ReceiptEvent.SHOWN,) if category in self.shown else ()
        acts = (ReceiptEvent.CLICKED, ReceiptEvent.CLOSED) if category in self.clicks else ()
        return (*shown, *acts)

    def sign(self, message: MessageKey) -> str:
        """Return the token of a message, 22 characters."""
        return base64url.encode(self._compute(message))

    def is_signed(self, message: MessageKey, token: str) -> bool:
        """Return whether a token is that of a message. Takes the same time for every wrong one."""
        return hmac.compare_digest(token.encode(), self.sign(message).encode())

    def _compute(self, message: MessageKey) -> bytes:
        lines = "\n".join((message.notification_id, message.delivery_id, str(message.expires_at)))
        return compute_signature(self._secret_key, _PURPOSE, lines.encode())[:_TOKEN_LENGTH]


def is_receipt_expired(message: MessageKey, now: datetime) -> bool:
    """Return whether events of a message are not accepted any more."""
    return now > datetime.fromtimestamp(message.expires_at / 1000, UTC) + REPORT_GRACE


def build_event(
    message: MessageKey, event: ReceiptEvent, *, user_id: str, action: str, occurred_at: datetime
) -> ProviderEvent:
    """Return the event to store. Each happens once per delivery. action: the button, empty for the message itself."""
    return ProviderEvent(
        channel="webpush",
        provider=PROVIDER,
        event_id=f"{event}:{message.delivery_id}",
        occurred_at=occurred_at,
        status=ReceiptStatus.DELIVERED if event is ReceiptEvent.SHOWN else None,
        cause=_CAUSES[event],
        delivery_id=message.delivery_id,
        code=action or None,
        user_id=user_id,
    )
