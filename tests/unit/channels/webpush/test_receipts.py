"""What a payload lets a service worker report, and the token of a message."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from tidings.channels.webpush.payload import encode_payload, shrink
from tidings.channels.webpush.receipts import MessageKey, ReceiptEvent, ReceiptPolicy, build_event, is_receipt_expired
from tidings.model.engagement import compute_engagement, has_human_click
from tidings.model.receipt import EventCause, Receipt, ReceiptStatus
from tidings.model.template import RenderedMessage

EXPIRES = datetime(2026, 11, 22, 12, tzinfo=UTC)
MESSAGE = MessageKey("0" * 36, "1" * 36, int(EXPIRES.timestamp() * 1000))
POLICY = ReceiptPolicy("a secret key of the server", shown=("NEWS",), clicks=("NEWS", "OFFERS"))
CONTENT = RenderedMessage("Jazz night", "7:00 PM", "https://tickets.example.com/e/1", "en")


def encode(category: str, content: RenderedMessage = CONTENT, max_bytes: int = 2641) -> bytes:
    return encode_payload(
        content,
        notification_id=MESSAGE.notification_id,
        delivery_id=MESSAGE.delivery_id,
        tag="t",
        expires_at=EXPIRES,
        category=category,
        receipts=POLICY,
        max_bytes=max_bytes,
    )


def test_c63_nothing_is_reported_by_default() -> None:
    data = json.loads(encode("OTHER"))["notification"]["data"]
    assert data.keys() == {"notificationId", "deliveryId", "expiresAt"}


def test_a_payload_names_what_to_report_in_less_than_100_bytes() -> None:
    data = json.loads(encode("NEWS"))["notification"]["data"]
    assert data["receipts"] == {"token": POLICY.sign(MESSAGE), "events": ["shown", "clicked", "closed"]}
    assert json.loads(encode("OFFERS"))["notification"]["data"]["receipts"]["events"] == ["clicked", "closed"]
    assert len(encode("NEWS")) - len(encode("OTHER")) < 100


def test_a_shortened_payload_keeps_its_token() -> None:
    long = replace(CONTENT, body="text " * 1000)
    payload = encode("NEWS", long, 500)
    assert len(payload) <= 500
    assert json.loads(payload)["notification"]["data"]["receipts"]["token"] == POLICY.sign(MESSAGE)
    smaller = shrink(payload, 470)
    assert smaller is not None
    assert json.loads(smaller)["notification"]["data"]["receipts"]["token"] == POLICY.sign(MESSAGE)


def test_a_token_holds_for_its_message_only() -> None:
    token = POLICY.sign(MESSAGE)
    assert len(token) == 22
    assert POLICY.is_signed(MESSAGE, token)
    others = [
        structs.replace(MESSAGE, notification_id="2" * 36),
        structs.replace(MESSAGE, delivery_id="2" * 36),
        structs.replace(MESSAGE, expires_at=MESSAGE.expires_at + 1),
    ]
    assert [POLICY.is_signed(other, token) for other in others] == [False] * 3
    assert not ReceiptPolicy("another secret key").is_signed(MESSAGE, token)
    assert not POLICY.is_signed(MESSAGE, "ä" * 22)


def test_events_are_taken_until_a_week_after_the_end_of_the_message() -> None:
    assert not is_receipt_expired(MESSAGE, EXPIRES + timedelta(days=7))
    assert is_receipt_expired(MESSAGE, EXPIRES + timedelta(days=7, seconds=1))


@pytest.mark.parametrize(
    ("event", "status", "cause", "clicks"),
    [
        (ReceiptEvent.SHOWN, ReceiptStatus.DELIVERED, EventCause.NONE, None),
        (ReceiptEvent.CLICKED, None, EventCause.CLICK, 1),
        (ReceiptEvent.CLOSED, None, EventCause.CLOSE, None),
    ],
)
def test_c62_only_a_click_is_engagement(
    event: ReceiptEvent, status: ReceiptStatus | None, cause: EventCause, clicks: int | None
) -> None:
    built = build_event(MESSAGE, event, user_id="u", action="", occurred_at=EXPIRES)
    assert (built.status, built.cause, built.user_id) == (status, cause, "u")
    stored = Receipt(
        "r", built.channel, built.provider, status, cause, None, MESSAGE.delivery_id, None, None, "", EXPIRES, EXPIRES
    )
    engagement = compute_engagement([stored])
    assert (None if engagement is None else engagement.human_clicks) == clicks
    # it cannot be a scan, so that it counts at once
    assert has_human_click([stored], EXPIRES) is (clicks is not None)
