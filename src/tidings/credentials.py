"""Credentials: API keys for servers, and short-lived signed user tokens for browsers.

An API key is `tdg_<43 base62 characters><6 base62 characters of checksum>`. Secret scanners recognise the prefix, and
the checksum detects a mistyped key without a database query.
"""

import hashlib
import secrets
import zlib
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import jwt

from tidings.errors import Unauthenticated

KEY_PREFIX = "tdg_"
SCOPES = ("notify", "read", "admin")

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_LENGTH = 43  # 62**43 > 2**256
_CHECKSUM_LENGTH = 6  # 62**6 > 2**32
#: characters of a key that are stored in plain text, to recognise it
_PREFIX_LENGTH = 12
#: tolerated difference between the clocks of the token's signer and this server, in seconds
LEEWAY_SECONDS = 5
#: bytes; a longer token is rejected before it is parsed. One that Tidings signs has less than 1 000
MAX_TOKEN_LENGTH = 8192
#: characters of a user id
_MAX_SUBJECT_LENGTH = 200
#: what parsers raise for a token that an attacker wrote: nested JSON, numbers with hundreds of digits
_PARSE_ERRORS = (jwt.PyJWTError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
#: longest accepted lifetime of a user token; limits the use of a stolen one
MAX_TOKEN_TTL = timedelta(days=30)


class MintedKey(NamedTuple):
    """A new API key. The plain text is displayed once and never stored."""

    plain: str
    #: SHA-256 of `plain`, hex; stored
    digest: str
    #: first characters, to recognise the key
    prefix: str


def mint_api_key() -> MintedKey:
    """Return a new API key of 32 random bytes."""
    body = _base62(int.from_bytes(secrets.token_bytes(32)), _SECRET_LENGTH)
    plain = KEY_PREFIX + body + _checksum(body)
    return MintedKey(plain, digest_api_key(plain), plain[:_PREFIX_LENGTH])


def digest_api_key(plain: str) -> str:
    """Return the SHA-256 of a key, hex. An unsalted hash suffices, because a key has 256 random bits."""
    return hashlib.sha256(plain.encode()).hexdigest()


def has_api_key_format(text: str) -> bool:
    """Whether the text has the format and checksum of an API key. The key may still be unknown or revoked."""
    body = text.removeprefix(KEY_PREFIX)
    if len(body) == len(text) or len(body) != _SECRET_LENGTH + _CHECKSUM_LENGTH or not body.isascii():
        return False
    return secrets.compare_digest(_checksum(body[:_SECRET_LENGTH]), body[_SECRET_LENGTH:])


def sign_user_token(secret: str, user_id: str, ttl: timedelta, now: datetime) -> str:
    """Return a token that lets a browser act as one user until `now + ttl`.

    secret: `TIDINGS_USER_SECRET`; ttl: at most 30 days. The claims are `sub`, `iat` and `exp` (RFC 7519 §4.1).
    """
    expires_at = now + min(ttl, MAX_TOKEN_TTL)
    claims = {"sub": user_id, "iat": int(now.timestamp()), "exp": int(expires_at.timestamp())}
    return jwt.encode(claims, _signing_key(secret), algorithm="HS256")


class UserToken(NamedTuple):
    """The claims of a valid user token."""

    user_id: str
    #: when the authorisation ends
    expires_at: datetime


def verify_user_token(secret: str, token: str, now: datetime) -> str:
    """Return the user id of a valid token. Raises as `read_user_token`."""
    return read_user_token(secret, token, now).user_id


def read_user_token(secret: str, token: str, now: datetime) -> UserToken:
    """Return the claims of a valid token.

    Raises Unauthenticated for a wrong signature, an algorithm other than HS256, a missing claim, or an expired token.
    """
    try:
        if len(token) > MAX_TOKEN_LENGTH:
            raise ValueError("the token is too long")
        claims = jwt.decode(
            token,
            _signing_key(secret),
            algorithms=["HS256"],
            # times are checked below, against `now`
            options={"require": ["sub", "exp"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
        expires_at = float(claims["exp"])
        not_before = float(claims.get("nbf", 0))
    except jwt.InvalidAudienceError as error:
        raise Unauthenticated(
            "The user token has the claim aud, so it was issued for another service. Sign a token for Tidings with "
            "TIDINGS_USER_SECRET and without aud.",
            code="invalid_token",
        ) from error
    except _PARSE_ERRORS as error:
        raise Unauthenticated(
            "The user token is invalid. It must be signed with HS256 and the user secret (TIDINGS_USER_SECRET), with "
            "the claims sub and exp.",
            code="invalid_token",
        ) from error
    timestamp = now.timestamp()
    # negated comparisons, so that NaN in `exp` or `nbf` is rejected
    if not expires_at > timestamp - LEEWAY_SECONDS:
        raise Unauthenticated("The user token has expired. Request a new one.", code="token_expired")
    if not expires_at <= timestamp + MAX_TOKEN_TTL.total_seconds() + LEEWAY_SECONDS:
        raise Unauthenticated("The user token's exp must be at most 30 days ahead.", code="invalid_token")
    if not not_before <= timestamp + LEEWAY_SECONDS:
        raise Unauthenticated("The user token is not valid yet.", code="invalid_token")
    user_id: str = claims["sub"]
    if not 1 <= len(user_id) <= _MAX_SUBJECT_LENGTH or not user_id.isprintable():
        raise Unauthenticated(
            f"The user token's claim sub must be a user id: 1 to {_MAX_SUBJECT_LENGTH} printable characters.",
            code="invalid_token",
        )
    return UserToken(user_id, datetime.fromtimestamp(expires_at, UTC))


def _signing_key(secret: str) -> bytes:
    """Return the HMAC key of a secret.

    RFC 7518 §3.2 requires at least 256 bits. A shorter secret is padded with zero bytes, as HMAC itself does (RFC 2104
    §2): the signature is the same as with the short secret, and PyJWT does not warn.
    """
    return secret.encode().ljust(32, b"\0")


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)
