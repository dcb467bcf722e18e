"""API keys and user tokens."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.credentials import digest_api_key, has_api_key_format, mint_api_key, sign_user_token, verify_user_token
from tidings.errors import Unauthenticated

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECRET = "a secret of the project, long enough"


def test_a_minted_key_has_prefix_and_checksum_and_is_stored_hashed() -> None:
    plain, digest, prefix = mint_api_key()
    assert plain.startswith("tdg_")
    assert plain.isascii()
    assert has_api_key_format(plain)
    assert digest == digest_api_key(plain)
    assert plain not in digest
    assert plain.startswith(prefix)
    assert len(prefix) < 16


def test_two_keys_differ() -> None:
    assert mint_api_key().plain != mint_api_key().plain


@given(position=st.integers(4, 52), other=st.sampled_from("019AZaz"))
def test_a_mistyped_key_fails_its_checksum(position: int, other: str) -> None:
    plain = mint_api_key().plain
    typo = plain[:position] + other + plain[position + 1 :]
    assert has_api_key_format(typo) is (typo == plain)


@pytest.mark.parametrize("text", ["", "tdg_", "tdg_short", "abc_" + "0" * 49, "tdg_" + "é" * 49, "tdg_" + "0" * 500])
def test_other_text_is_no_key(text: str) -> None:
    assert not has_api_key_format(text)


def test_a_token_gives_its_user_back() -> None:
    token = sign_user_token(SECRET, "user-1", timedelta(hours=1), NOW)
    assert verify_user_token(SECRET, token, NOW) == "user-1"


@pytest.mark.parametrize("secret", ["short", SECRET, "x" * 200])
def test_a_host_can_sign_with_any_jwt_library(secret: str) -> None:
    key = secret.ljust(32, "\0")  # HMAC pads keys with zeros itself (RFC 2104 §2); this only quiets the library
    token = jwt.encode({"sub": "user-1", "exp": NOW + timedelta(minutes=5)}, key, algorithm="HS256")
    assert verify_user_token(secret, token, NOW) == "user-1"


def test_an_ended_token_is_refused_with_its_own_code() -> None:
    token = sign_user_token(SECRET, "user-1", timedelta(minutes=1), NOW)
    with pytest.raises(Unauthenticated) as caught:
        verify_user_token(SECRET, token, NOW + timedelta(minutes=2))
    assert caught.value.code == "token_expired"


def test_clocks_may_differ_by_a_few_seconds() -> None:
    token = sign_user_token(SECRET, "user-1", timedelta(minutes=1), NOW)
    assert verify_user_token(SECRET, token, NOW + timedelta(seconds=63)) == "user-1"


def _signed(claims: dict[str, object], algorithm: str = "HS256") -> str:
    return jwt.encode(claims, SECRET.ljust(64, "\0"), algorithm=algorithm)


@pytest.mark.parametrize(
    "token",
    [
        _signed({"sub": "u"}),
        _signed({"exp": NOW.timestamp() + 60}),
        _signed({"sub": "", "exp": NOW.timestamp() + 60}),
        _signed({"sub": "u", "exp": NOW.timestamp() + 400 * 86_400}),
        _signed({"sub": "u", "exp": "soon"}),
        _signed({"sub": "u", "exp": float("nan")}),
        _signed({"sub": "u", "exp": NOW.timestamp() + 60, "nbf": NOW.timestamp() + 50}),
        _signed({"sub": "u", "exp": NOW.timestamp() + 60}, algorithm="HS512"),
        jwt.encode({"sub": "u", "exp": NOW.timestamp() + 60}, "", algorithm="none"),
        jwt.encode({"sub": "u", "exp": NOW.timestamp() + 60}, "another secret, also long enough", algorithm="HS256"),
        "a.b.c",
        "nonsense",
    ],
)
def test_a_token_that_proves_nothing_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        verify_user_token(SECRET, token, NOW)
