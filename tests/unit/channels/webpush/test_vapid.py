"""VAPID tokens against the vector of RFC 8292 and an independent verifier; reuse; subjects."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st
from py_vapid import Vapid02

from tidings.channels.webpush import base64url
from tidings.channels.webpush.vapid import (
    TOKEN_LIFETIME,
    VapidSigner,
    check_key,
    check_subject,
    format_authorization,
    generate_key,
)
from tidings.errors import ConfigError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SUBJECT = "mailto:push@example.com"
ORIGIN = "https://push.example.net"
#: RFC 8292 §2.4
RFC_TOKEN = (
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwczovL3B1c2guZXhhbXBsZS5uZXQiLCJleHAiOjE0NTM1MjM3NjgsInN1YiI6"
    "Im1haWx0bzpwdXNoQGV4YW1wbGUuY29tIn0.i3CYb7t4xfxCDquptFOepC9GAu_HLGkMlMuCGSK2rpiUfnK9ojFwDXb1JrErtmysazNjjvW2L9OkSS"
    "HzvoD1oA"
)
RFC_KEY = "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs"


def token_of(header: str) -> str:
    return header.removeprefix("vapid t=").partition(",")[0]


def claims_of(header: str) -> dict[str, object]:
    claims = json.loads(base64url.decode(token_of(header).split(".")[1]))
    assert isinstance(claims, dict)
    return claims


def verify(token: str, public: bytes) -> None:
    signed, _, signature = token.rpartition(".")
    raw = base64url.decode(signature)
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    key.verify(der, signed.encode(), ec.ECDSA(SHA256()))


def test_rfc_8292_section_2_4_is_verified_and_our_signed_part_is_the_same() -> None:
    verify(RFC_TOKEN, base64url.decode(RFC_KEY))
    key = generate_key(NOW)
    signer = VapidSigner([key], SUBJECT)
    expires_at = datetime.fromtimestamp(1453523768, UTC)
    header = signer.get_authorization(ORIGIN, key.id, expires_at - TOKEN_LIFETIME)
    assert header is not None
    assert token_of(header).rpartition(".")[0] == RFC_TOKEN.rpartition(".")[0]


def test_the_header_has_the_form_of_rfc_8292() -> None:
    key = replace(generate_key(NOW), public=base64url.decode(RFC_KEY))
    assert format_authorization(key, RFC_TOKEN) == f"vapid t={RFC_TOKEN}, k={RFC_KEY}"


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["https://fcm.googleapis.com", "https://web.push.apple.com", "http://127.0.0.1:9090"]))
def test_py_vapid_verifies_what_we_sign(origin: str) -> None:
    key = generate_key(NOW)
    header = VapidSigner([key], SUBJECT).get_authorization(origin, key.id, NOW)
    assert header is not None
    # py_vapid expects the two parts without the space of RFC 8292
    assert Vapid02.verify(header.replace(", k=", ",k="))
    verify(token_of(header), key.public)
    assert claims_of(header) == {"aud": origin, "exp": int((NOW + TOKEN_LIFETIME).timestamp()), "sub": SUBJECT}


def test_a_changed_token_is_not_verified() -> None:
    changed = RFC_TOKEN.replace("eyJhdWQ", "eyJhdWR")
    with pytest.raises(InvalidSignature):
        verify(changed, base64url.decode(RFC_KEY))


def test_a_token_is_reused_until_less_than_half_of_its_life_is_left() -> None:
    key = generate_key(NOW)
    signer = VapidSigner([key], SUBJECT)
    first = signer.get_authorization(ORIGIN, key.id, NOW)
    assert signer.get_authorization(ORIGIN, key.id, NOW + TOKEN_LIFETIME / 2 - timedelta(seconds=1)) == first
    second = signer.get_authorization(ORIGIN, key.id, NOW + TOKEN_LIFETIME / 2)
    assert second is not None
    assert second != first


def test_a_clock_set_back_gets_a_token_that_services_still_accept() -> None:
    key = generate_key(NOW)
    signer = VapidSigner([key], SUBJECT)
    signer.get_authorization(ORIGIN, key.id, NOW)
    earlier = NOW - timedelta(hours=20)
    header = signer.get_authorization(ORIGIN, key.id, earlier)
    assert header is not None
    assert claims_of(header)["exp"] == int((earlier + TOKEN_LIFETIME).timestamp())


def test_each_origin_and_each_key_has_its_own_token() -> None:
    old, new = generate_key(NOW), generate_key(NOW)
    signer = VapidSigner([old, new], SUBJECT)
    headers = {
        signer.get_authorization(origin, key.id, NOW) for origin in (ORIGIN, "https://a.example") for key in (old, new)
    }
    assert len(headers) == 4


def test_the_token_cache_is_bounded() -> None:
    key = generate_key(NOW)
    signer = VapidSigner([key], SUBJECT)
    first = signer.get_authorization("https://0.push.apple.com", key.id, NOW)
    for number in range(1, 1100):
        signer.get_authorization(f"https://{number}.push.apple.com", key.id, NOW)
    assert signer.get_authorization("https://0.push.apple.com", key.id, NOW) != first


def test_an_unknown_key_has_no_header_until_it_is_set() -> None:
    known, later = generate_key(NOW), generate_key(NOW)
    signer = VapidSigner([known], SUBJECT)
    assert signer.get_authorization(ORIGIN, later.id, NOW) is None
    kept = signer.get_authorization(ORIGIN, known.id, NOW)
    signer.set_keys([known, later])
    assert signer.get_authorization(ORIGIN, later.id, NOW) is not None
    assert signer.get_authorization(ORIGIN, known.id, NOW) == kept


def test_a_generated_key_has_matching_halves() -> None:
    key = generate_key(NOW)
    check_key(key)
    assert (len(key.private), len(key.public), key.public[0]) == (32, 65, 4)


@pytest.mark.parametrize("private", [bytes(32), b"\xff" * 32, (5).to_bytes(32, "big")])
def test_a_damaged_key_is_refused(private: bytes) -> None:
    with pytest.raises(ConfigError, match="TIDINGS_SECRET_KEY"):
        check_key(replace(generate_key(NOW), private=private))


@pytest.mark.parametrize(
    "subject",
    ["mailto:ops@example.com", "https://example.com", "https://example.com/contact", "mailto:a+b@x.example.com"],
)
def test_a_real_contact_is_accepted(subject: str) -> None:
    assert check_subject(subject) == subject


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "ops@example.com",
        "mailto:",
        "mailto:ops",
        "mailto:@example.com",
        "mailto:<ops@example.com>",
        "mailto: ops@example.com",
        "mailto:ops@example.com\n",
        "mailto:ops@localhost",
        "mailto:ops@tidings.invalid",
        "mailto:ops@intranet",
        "http://example.com",
        "https://",
        "https://localhost",
        "https://localhost:8000/x",
        "https://x.invalid/",
        "https://[::1",
        "javascript:alert(1)",
    ],
)
def test_a_placeholder_contact_is_refused_by_name(subject: str) -> None:
    with pytest.raises(ConfigError, match=r"^TIDINGS_VAPID_SUBJECT: "):
        check_subject(subject)


def test_a_refused_token_is_replaced_once_and_then_after_an_hour() -> None:
    key = generate_key(NOW)
    signer = VapidSigner([key], SUBJECT)
    first = signer.get_authorization(ORIGIN, key.id, NOW)
    assert first is not None
    assert signer.renew(ORIGIN, key.id, first, NOW)
    second = signer.get_authorization(ORIGIN, key.id, NOW)
    assert second not in (None, first)
    assert second is not None
    assert signer.renew(ORIGIN, key.id, first, NOW), "another request was refused with the old token"
    assert signer.get_authorization(ORIGIN, key.id, NOW) == second
    assert not signer.renew(ORIGIN, key.id, second, NOW + timedelta(minutes=59))
    assert signer.renew(ORIGIN, key.id, second, NOW + timedelta(minutes=60))


def test_a_token_that_was_accepted_may_be_replaced_again_at_once() -> None:
    key = generate_key(NOW)
    signer = VapidSigner([key], SUBJECT)
    first = signer.get_authorization(ORIGIN, key.id, NOW)
    assert first is not None
    assert signer.renew(ORIGIN, key.id, first, NOW)
    second = signer.get_authorization(ORIGIN, key.id, NOW)
    assert second is not None
    signer.mark_accepted(ORIGIN, key.id)
    assert signer.renew(ORIGIN, key.id, second, NOW)
