"""Delivery reports and incoming messages as events."""

from datetime import UTC, datetime

import pytest

from tidings.channels.sms.keywords import SmsIntent
from tidings.channels.sms.receipts import (
    parse_twilio_incoming,
    parse_twilio_receipt,
    parse_vonage_incoming,
    parse_vonage_receipt,
)
from tidings.errors import ValidationFailed
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus
from tidings.testing.clock import START as NOW

OWN = "01a20320-a200-7000-8000-000000000001"
NUMBER = "+491701234567"


def test_a_status_callback_of_twilio() -> None:
    fields = {
        "MessageSid": "SM1",
        "MessageStatus": "undelivered",
        "ErrorCode": "30005",
        "To": NUMBER,
        "From": "+15005550006",
    }
    assert parse_twilio_receipt(fields, {"deliveryId": OWN}, NOW) == ProviderEvent(
        "sms",
        "twilio",
        "SM1\nundelivered",
        NOW,
        ReceiptStatus.UNDELIVERED,
        EventCause.INVALID_NUMBER,
        "SM1",
        OWN,
        NUMBER,
        "+15005550006",
        "30005",
    )
    delivered = parse_twilio_receipt({"SmsSid": "SM1", "SmsStatus": "delivered"}, {"deliveryId": "not an id"}, NOW)
    assert delivered is not None
    assert (delivered.status, delivered.cause, delivered.delivery_id, delivered.recipient) == (
        ReceiptStatus.DELIVERED,
        EventCause.NONE,
        None,
        None,
    )


def test_c67_an_opt_out_with_twilio_is_an_event_of_the_sender() -> None:
    fields = {"MessageSid": "SM1", "MessageStatus": "failed", "ErrorCode": "21610", "To": NUMBER, "From": "+1500"}
    event = parse_twilio_receipt(fields, {}, NOW)
    assert event is not None
    assert (event.cause, event.sender, event.status) == (EventCause.PROVIDER_OPT_OUT, "+1500", ReceiptStatus.FAILED)


@pytest.mark.parametrize("status", ["queued", "accepted", "scheduled", "sending", "read", "new-status"])
def test_a_status_of_twilio_that_says_nothing_new(status: str) -> None:
    assert parse_twilio_receipt({"MessageSid": "SM1", "MessageStatus": status}, {}, NOW) is None


def test_a_delivery_receipt_of_vonage() -> None:
    fields = {
        "messageId": "0A",
        "status": "failed",
        "err-code": "9",
        "client-ref": OWN,
        "msisdn": "491701234567",
        "to": "1500",
        "message-timestamp": "2026-11-22 12:00:00",
    }
    at = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert parse_vonage_receipt(fields, NOW) == ProviderEvent(
        "sms",
        "vonage",
        "0A\nfailed",
        at,
        ReceiptStatus.FAILED,
        EventCause.INVALID_NUMBER,
        "0A",
        OWN,
        NUMBER,
        "1500",
        "9",
    )
    delivered = parse_vonage_receipt({"message-id": "0A", "status": "delivered", "err-code": "0"}, NOW)
    assert delivered is not None
    assert (delivered.status, delivered.code, delivered.occurred_at) == (ReceiptStatus.DELIVERED, None, NOW)
    assert parse_vonage_receipt({"messageId": "0A", "status": "buffered"}, NOW) is None
    expired = parse_vonage_receipt({"messageId": "0A", "status": "expired"}, NOW)
    assert expired is not None
    assert (expired.status, expired.cause) == (ReceiptStatus.UNDELIVERED, EventCause.NONE)


def test_a_receipt_without_an_id_names_the_field() -> None:
    with pytest.raises(ValidationFailed, match="MessageSid: is required"):
        parse_twilio_receipt({"MessageStatus": "sent"}, {}, NOW)
    with pytest.raises(ValidationFailed, match="status: is required"):
        parse_vonage_receipt({"messageId": "0A"}, NOW)


def test_incoming_messages() -> None:
    twilio = parse_twilio_incoming({"MessageSid": "SM9", "From": NUMBER, "To": "+1500", "Body": "Stop"})
    assert (twilio.sender, twilio.recipients, twilio.intent) == (NUMBER, ["+1500"], SmsIntent.OPT_OUT)
    vonage = parse_vonage_incoming({"messageId": "0B", "msisdn": "491701234567", "to": "1500", "text": "START"})
    assert (vonage.sender, vonage.recipients, vonage.intent) == (NUMBER, ["1500"], SmsIntent.OPT_IN)


def test_the_opt_out_that_twilio_recognised_is_taken_over() -> None:
    fields = {
        "MessageSid": "SM9",
        "From": NUMBER,
        "To": "+1500",
        "MessagingServiceSid": "MG1",
        "Body": "arrêt",
        "OptOutType": "STOP",
    }
    incoming = parse_twilio_incoming(fields)
    assert (incoming.intent, incoming.recipients, incoming.is_answered) == (SmsIntent.OPT_OUT, ["MG1", "+1500"], True)


@pytest.mark.parametrize(
    ("own", "sender"), [(["+1500"], "+1500"), (["MG1"], "MG1"), (["1500"], "1500"), (["+1999"], ""), ([], "")]
)
def test_c66_an_opt_out_is_about_the_sender_that_was_answered(own: list[str], sender: str) -> None:
    fields = {"MessageSid": "SM9", "From": NUMBER, "To": "+1500", "MessagingServiceSid": "MG1", "Body": "STOP"}
    event = parse_twilio_incoming(fields).to_event(own, NOW)
    assert (event.cause, event.sender, event.recipient, event.detail) == (EventCause.OPT_OUT, sender, NUMBER, "")


@pytest.mark.parametrize(("text", "cause"), [("STOP PLEASE", EventCause.REVIEW), ("Thank you", EventCause.NONE)])
def test_c66_the_text_of_an_ordinary_answer_is_not_kept(text: str, cause: EventCause) -> None:
    fields = {"MessageSid": "SM9", "From": NUMBER, "To": "+1500", "Body": text}
    event = parse_twilio_incoming(fields).to_event(["+1500"], NOW)
    assert (event.cause, event.detail) == (cause, text if cause is EventCause.REVIEW else "")
