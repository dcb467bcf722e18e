"""Webhooks of SMS providers: verified over the bytes that were received."""

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import jwt
import pytest

from tidings.channels.sms.webhook_verification import verify_twilio, verify_vonage_signature, verify_vonage_token
from tidings.errors import Unauthenticated
from tidings.testing.fake_providers import FakeSmsProvider

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECRET = "a-signature-secret-of-more-than-32-bytes"
URL = "https://tidings.example/sms/twilio?deliveryId=d-1"
FORM = {"MessageSid": "SM1", "MessageStatus": "delivered", "Body": "Zażółć & more + x=y", "Empty": ""}


def test_the_vector_of_twilios_documentation() -> None:
    fields = {
        "Digits": "1234",
        "To": "+18005551212",
        "From": "+14158675310",
        "Caller": "+14158675310",
        "CallSid": "CA1234567890ABCDE",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    body = urlencode(fields).encode()
    assert verify_twilio(url, body, "GvWf1cFY/Q7PnoempGyD5oXAezc=", ["12345"]) == fields
    assert FakeSmsProvider(secret="12345").sign(url, fields) == "GvWf1cFY/Q7PnoempGyD5oXAezc="


def test_a_webhook_of_twilio_verifies_with_every_valid_token() -> None:
    signature = FakeSmsProvider(secret="new").sign(URL, FORM)
    body = urlencode(FORM).encode()
    assert verify_twilio(URL, body, signature, ["old", "new"]) == FORM
    for tokens in ([], ["old"]):
        with pytest.raises(Unauthenticated):
            verify_twilio(URL, body, signature, tokens)


@pytest.mark.parametrize(
    ("signed", "received"),
    [
        ("https://tidings.example:443/sms", "https://tidings.example/sms"),
        ("https://tidings.example/sms", "https://tidings.example:443/sms"),
    ],
)
def test_the_default_port_may_be_signed(signed: str, received: str) -> None:
    signature = FakeSmsProvider(secret="t").sign(signed, FORM)
    assert verify_twilio(received, urlencode(FORM).encode(), signature, ["t"]) == FORM
    with pytest.raises(Unauthenticated):
        verify_twilio("https://tidings.example:8443/sms", urlencode(FORM).encode(), signature, ["t"])


@pytest.mark.parametrize("signature", [None, "", "x", "é", "GvWf1cFY/Q7PnoempGyD5oXAezc="])
def test_a_webhook_of_twilio_without_a_valid_signature_is_refused(signature: str | None) -> None:
    with pytest.raises(Unauthenticated):
        verify_twilio(URL, urlencode(FORM).encode(), signature, ["t"])


@pytest.mark.parametrize("body", [b"MessageSid=SM2", urlencode(FORM).encode() + b"&x=1", b"\xff", b"", b"a&" * 2000])
def test_a_changed_body_is_refused(body: bytes) -> None:
    signature = FakeSmsProvider(secret="t").sign(URL, FORM)
    with pytest.raises(Unauthenticated):
        verify_twilio(URL, body, signature, ["t"])


def test_a_json_body_of_twilio_is_covered_by_its_digest() -> None:
    body = json.dumps({"MessageSid": "SM1", "n": 1}).encode()
    url = f"{URL}&bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = FakeSmsProvider(secret="t").sign(url, {})
    assert verify_twilio(url, body, signature, ["t"]) == {"MessageSid": "SM1", "n": "1"}
    with pytest.raises(Unauthenticated):
        verify_twilio(url, body + b" ", signature, ["t"])


def make_authorization(body: bytes, secret: str = SECRET, **claims: object) -> str:
    values = {"iat": int(NOW.timestamp()), "api_key": "key", "payload_hash": hashlib.sha256(body).hexdigest(), **claims}
    return "Bearer " + jwt.encode({k: v for k, v in values.items() if v is not None}, secret, "HS256")


def test_a_signed_webhook_of_vonage_verifies() -> None:
    body = b'{"messageId": "0A", "status": "delivered", "n": 2}'
    fields = verify_vonage_token(body, make_authorization(body), ["o" * 32, SECRET], NOW, api_key="key")
    assert fields == {"messageId": "0A", "status": "delivered", "n": "2"}


@pytest.mark.parametrize(
    "claims",
    [
        {"payload_hash": None},
        {"payload_hash": "0" * 64},
        {"payload_hash": 7},
        {"iat": None},
        {"iat": int((NOW - timedelta(minutes=6)).timestamp())},
        {"iat": int((NOW + timedelta(minutes=6)).timestamp())},
        {"iat": "yesterday"},
        {"api_key": "another"},
        {"secret": "another-secret-of-more-than-32-bytes"},
    ],
)
def test_a_token_with_another_claim_is_refused(claims: dict[str, object]) -> None:
    with pytest.raises(Unauthenticated):
        verify_vonage_token(b"{}", make_authorization(b"{}", **claims), [SECRET], NOW, api_key="key")  # type: ignore[arg-type]


def test_a_token_without_a_signature_is_refused() -> None:
    claims = {"iat": int(NOW.timestamp()), "payload_hash": hashlib.sha256(b"{}").hexdigest()}
    unsigned = jwt.encode(claims, "", "none")
    for authorization in (None, "", "Basic eDp5", "Bearer", "Bearer x", f"Bearer {unsigned}"):
        with pytest.raises(Unauthenticated):
            verify_vonage_token(b"{}", authorization, [SECRET], NOW)


def sign_fields(fields: dict[str, str], method: str, secret: str = SECRET) -> dict[str, str]:
    signed = "".join(f"&{name}={fields[name].replace('&', '_').replace('=', '_')}" for name in sorted(fields))
    if method == "md5hash":
        return {**fields, "sig": hashlib.md5((signed + secret).encode()).hexdigest()}
    return {**fields, "sig": hmac.new(secret.encode(), signed.encode(), method).hexdigest().upper()}


@pytest.mark.parametrize("method", ["sha256", "sha512", "sha1", "md5", "md5hash"])
def test_the_signature_parameter_of_vonage_verifies_in_body_and_query(method: str) -> None:
    fields = {"messageId": "0A", "text": "a&b=c", "timestamp": str(int(NOW.timestamp())), "nonce": "n"}
    signed = urlencode(sign_fields(fields, method))
    assert verify_vonage_signature(signed.encode(), "", [SECRET], NOW, method=method) == fields
    assert verify_vonage_signature(b"", signed, ["old", SECRET], NOW, method=method) == fields
    as_json = json.dumps(sign_fields(fields, method)).encode()
    assert verify_vonage_signature(as_json, "", [SECRET], NOW, method=method) == fields
    for body in (signed.replace("0A", "0B").encode(), urlencode(fields).encode()):
        with pytest.raises(Unauthenticated):
            verify_vonage_signature(body, "", [SECRET], NOW, method=method)
    with pytest.raises(Unauthenticated):
        verify_vonage_signature(signed.encode(), "", [SECRET], NOW + timedelta(minutes=6), method=method)


def test_an_unknown_method_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="crc32"):
        verify_vonage_signature(b"", "", [SECRET], NOW, method="crc32")
