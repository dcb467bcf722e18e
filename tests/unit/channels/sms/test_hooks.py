"""Calls of SMS providers: what verifies them, and the events that they contain."""

import hashlib
import hmac
import json
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from pydantic import SecretStr

from tidings.channels.plugin import HookReading, HookRequest
from tidings.channels.sms.hooks import list_hooks, read_hook
from tidings.channels.sms.settings import SmsSettings
from tidings.errors import NotFound, Unauthenticated
from tidings.model.receipt import EventCause, ReceiptStatus
from tidings.testing.clock import START as NOW

SECRET = "the secret of signed webhooks of Vonage"
OWN = "01a20320-a200-7000-8000-000000000001"
SETTINGS = SmsSettings(
    url=SecretStr("vonage+https://key:secret@rest.example?from=1500"),
    callback_url="https://tidings.example/hooks/sms/vonage",
    signature_secret=SecretStr(SECRET),
)


def read(body: bytes, settings: SmsSettings = SETTINGS, provider: str = "vonage", **headers: str) -> HookReading:
    return read_hook(HookRequest(provider, f"/hooks/sms/{provider}", "", headers, body, NOW), settings)


def build_token(body: bytes, secret: str = SECRET) -> str:
    claims = {"iat": int(NOW.timestamp()), "payload_hash": hashlib.sha256(body).hexdigest(), "api_key": "key"}
    return "Bearer " + jwt.encode(claims, secret, algorithm="HS256")


def test_a_hook_needs_an_address_and_a_secret() -> None:
    assert list_hooks(SETTINGS) == ["vonage"]
    assert list_hooks(SETTINGS.model_copy(update={"callback_url": None})) == []
    assert list_hooks(SETTINGS.model_copy(update={"signature_secret": None})) == []
    assert list_hooks(SmsSettings()) == []
    for provider in ("twilio", "unknown"):
        with pytest.raises(NotFound):
            read(b"{}", provider=provider)


def test_c50_a_signed_receipt_of_vonage_is_read_over_its_bytes() -> None:
    fields = {"messageId": "0A", "status": "delivered", "client-ref": OWN, "msisdn": "16502530000", "to": "1500"}
    body = json.dumps(fields).encode()
    [event] = read(body, authorization=build_token(body)).events
    assert (event.status, event.delivery_id, event.recipient) == (ReceiptStatus.DELIVERED, OWN, "+16502530000")
    for wrong in (build_token(body + b" "), build_token(body, "another secret than the configured one"), "Bearer x"):
        with pytest.raises(Unauthenticated):
            read(body, authorization=wrong)
    with pytest.raises(Unauthenticated):
        read(body)


def test_c66_stop_to_vonage_with_the_older_signature_is_an_opt_out_of_the_sender() -> None:
    fields: dict[str, Any] = {
        "messageId": "0B",
        "msisdn": "16502530000",
        "to": "1500",
        "text": "Stop",
        "timestamp": str(int(NOW.timestamp())),
    }
    signed = "".join(f"&{name}={fields[name]}" for name in sorted(fields))
    signature = hmac.new(SECRET.encode(), signed.encode(), "sha256").hexdigest()
    [event] = read(urlencode(fields | {"sig": signature}).encode()).events
    assert (event.cause, event.sender, event.recipient) == (EventCause.OPT_OUT, "1500", "+16502530000")


def test_a_status_that_says_nothing_new_has_no_event() -> None:
    body = json.dumps({"messageId": "0A", "status": "buffered"}).encode()
    assert read(body, authorization=build_token(body)) == HookReading([])
