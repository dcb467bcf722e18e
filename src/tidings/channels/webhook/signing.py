"""Signatures of Standard Webhooks 1.0: symmetric, `v1`, with one signature per secret. Pure."""

import base64
import binascii
import hmac
import os
from collections.abc import Mapping, Sequence
from datetime import datetime

from tidings.errors import ValidationFailed

PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64


def generate_secret() -> str:
    """Return a new random secret of 32 bytes, such as `whsec_…`."""
    return PREFIX + base64.b64encode(os.urandom(32)).decode()


def parse_secret(text: str, field: str = "secret") -> bytes:
    """Return the key of a secret: `whsec_` and 24 to 64 bytes in base64.

    Raises ValidationFailed for `field`. The message does not contain the secret.
    """
    fix = f"must be {PREFIX} and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes"
    encoded = text.removeprefix(PREFIX)
    if encoded == text:
        raise ValidationFailed.for_field(field, fix)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValidationFailed.for_field(field, fix) from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValidationFailed.for_field(field, fix)
    return key


def sign_message(keys: Sequence[bytes], message_id: str, at: datetime, payload: bytes) -> Mapping[str, str]:
    """Return the three headers of one attempt. During a rotation every key signs, the newest first.

    `message_id` is the same for every attempt; `at` is the time of this attempt. Raises ValueError for an id with a
    dot, which separates the signed parts, or if there is no key.
    """
    if not message_id or "." in message_id:
        raise ValueError(f"a message id must have no dot: {message_id!r}")
    if not keys:
        raise ValueError("at least one key is required")
    timestamp = str(int(at.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + payload
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
