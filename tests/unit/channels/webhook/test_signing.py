"""Signatures are verified by the reference implementation of Standard Webhooks."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from tidings.channels.webhook.signing import generate_secret, parse_secret, sign_message
from tidings.errors import ValidationFailed


def test_the_vector_of_the_specification() -> None:
    headers = sign_message(
        [parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


@given(text=st.text(st.characters(codec="utf-8")))
def test_c73_every_payload_verifies_with_every_secret_of_a_rotation(text: str) -> None:
    old, new = generate_secret(), generate_secret()
    headers = sign_message([parse_secret(new), parse_secret(old)], "d-1", datetime.now(UTC), text.encode())
    for secret in (old, new):
        Webhook(secret).verify(text.encode(), dict(headers), json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(generate_secret()).verify(text.encode(), dict(headers), json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(text.encode() + b" ", dict(headers), json_parse=False)


def test_c72_the_signature_covers_the_time_of_the_attempt() -> None:
    key = parse_secret(generate_secret())
    now = datetime.now(UTC)
    first = sign_message([key], "d-1", now, b"{}")
    second = sign_message([key], "d-1", now + timedelta(seconds=5), b"{}")
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize("message_id", ["", "msg.1", "."])
def test_c73_an_id_with_a_dot_is_refused(message_id: str) -> None:
    with pytest.raises(ValueError, match="no dot"):
        sign_message([b"k" * 32], message_id, datetime.now(UTC), b"")


def test_a_message_is_not_sent_unsigned() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        sign_message([], "d-1", datetime.now(UTC), b"")


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_have_24_to_64_bytes(size: int) -> None:
    encoded = base64.b64encode(bytes(range(size))).decode()
    assert parse_secret(f"whsec_{encoded}") == bytes(range(size))
    assert parse_secret(f"whsec_{encoded.rstrip('=')}") == bytes(range(size))


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        base64.b64encode(bytes(32)).decode(),
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_not base64 at all, but long enough",
        "whsec_" + "é" * 40,
    ],
)
def test_an_invalid_secret_is_refused_without_being_displayed(secret: str) -> None:
    with pytest.raises(ValidationFailed, match="24 to 64") as refused:
        parse_secret(secret, "secrets[0]")
    assert refused.value.field_errors[0].field == "secrets[0]"
    assert secret.removeprefix("whsec_") == "" or secret not in refused.value.message
