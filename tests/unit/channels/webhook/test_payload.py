"""The payload of a webhook."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tidings.channels.webhook.payload import MAX_PAYLOAD, encode_payload
from tidings.errors import ValidationFailed
from tidings.model import ids
from tidings.model.template import Category, MessageAction, RenderedMessage
from tidings.ports.channel import ComposeContext

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ACCEPTED_AT = datetime(2026, 11, 22, 9, 30, 15, 250_000, tzinfo=UTC)


def make_context(notification_id: str = "n-1") -> ComposeContext:
    return ComposeContext(
        notification_id, "d-1", "ana", Category("NEWS", "News"), "event:7", NOW + timedelta(days=1), "UTC"
    )


def make_message(body: str = "World", fields: dict[str, str] | None = None) -> RenderedMessage:
    actions = (MessageAction("open", "Open", "https://app.example/7/open"),)
    return RenderedMessage("Hello", body, "https://app.example/7", "en", actions=actions, fields=fields or {})


def test_the_payload_has_type_timestamp_and_data() -> None:
    payload = json.loads(encode_payload(make_message(), make_context(), NOW))
    assert payload == {
        "type": "NEWS",
        "timestamp": "2026-11-22T12:00:00.000Z",
        "data": {
            "notificationId": "n-1",
            "deliveryId": "d-1",
            "userId": "ana",
            "category": "NEWS",
            "collapseKey": "event:7",
            "sequence": 1,
            "title": "Hello",
            "body": "World",
            "url": "https://app.example/7",
            "lang": "en",
            "expiresAt": "2026-11-23T12:00:00.000Z",
            "actions": [{"action": "open", "title": "Open", "navigate": "https://app.example/7/open"}],
        },
    }


def test_the_texts_for_the_channel_are_included() -> None:
    payload = json.loads(encode_payload(make_message(fields={"summary": "s"}), make_context(), NOW))
    assert payload["data"]["fields"] == {"summary": "s"}


def test_every_attempt_has_the_same_bytes() -> None:
    context = make_context(ids.new_id(ACCEPTED_AT))
    first = encode_payload(make_message(), context, NOW)
    assert encode_payload(make_message(), context, NOW + timedelta(hours=2)) == first
    timestamp = datetime.fromisoformat(json.loads(first)["timestamp"])
    # ids of one process are in order, so the time may be slightly later than asked for
    assert timestamp >= ACCEPTED_AT
    assert timestamp.tzinfo is not None


def test_a_payload_of_more_than_20_kb_is_refused() -> None:
    size = len(encode_payload(make_message(""), make_context(), NOW))
    assert len(encode_payload(make_message("a" * (MAX_PAYLOAD - size)), make_context(), NOW)) == MAX_PAYLOAD
    with pytest.raises(ValidationFailed, match="at most 20000"):
        encode_payload(make_message("a" * (MAX_PAYLOAD - size + 1)), make_context(), NOW)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(ValidationFailed, match="surrogate"):
        encode_payload(make_message("\ud83d"), make_context(), NOW)
