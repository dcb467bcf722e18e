"""The two kinds of credentials: API keys for servers, short-lived signed user tokens for browsers (MISSION M8).

A key looks like `tdg_<43 base62 characters><6 base62 characters of checksum>`: scanners for leaked secrets find the
prefix, and a mistyped key is told apart from an unknown one without asking the database.
"""

import hashlib
import secrets
import zlib
from datetime import datetime, timedelta
from typing import NamedTuple

import jwt

from tidings.errors import Unauthenticated

KEY_PREFIX = "tdg_"
SCOPES = ("notify", "read", "admin")

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_LENGTH = 43  # 62**43 > 2**256
_CHECK_LENGTH = 6  # 62**6 > 2**32
#: characters of a key that people may see again
_SHOWN = 12
#: how far the clocks of whoever signed a token and of this server may differ, in seconds
LEEWAY_SECONDS = 5
#: the longest life a user token may have; a stolen one must not live for years
MAX_TOKEN_LIFE = timedelta(days=30)


class MintedKey(NamedTuple):
    """A new API key. The plain text is shown once and never kept."""

    plain: str
    #: SHA-256 of `plain`, hex: what is stored
    digest: str
    #: first characters, for people to recognise the key by
    prefix: str


def mint_api_key() -> MintedKey:
    """Return a new API key of 32 random bytes."""
    body = _base62(int.from_bytes(secrets.token_bytes(32)), _SECRET_LENGTH)
    plain = KEY_PREFIX + body + _checksum(body)
    return MintedKey(plain, digest_api_key(plain), plain[:_SHOWN])


def digest_api_key(plain: str) -> str:
    """Return the SHA-256 of a key, hex. A plain hash is enough: 256 random bits cannot be guessed from it."""
    return hashlib.sha256(plain.encode()).hexdigest()


def looks_like_api_key(text: str) -> bool:
    """Say whether text has the form and the checksum of a key. Says nothing about whether it is valid."""
    body = text.removeprefix(KEY_PREFIX)
    if len(body) == len(text) or len(body) != _SECRET_LENGTH + _CHECK_LENGTH or not body.isascii():
        return False
    return secrets.compare_digest(_checksum(body[:_SECRET_LENGTH]), body[_SECRET_LENGTH:])


def sign_user_token(secret: str, user_id: str, ttl: timedelta, now: datetime) -> str:
    """Return a token that lets a browser act as one user until `now + ttl`.

    secret: the project's user secret; ttl: life, at most 30 days. Claims are `sub`, `iat` and `exp` (RFC 7519 §4.1).
    """
    ends = now + min(ttl, MAX_TOKEN_LIFE)
    claims = {"sub": user_id, "iat": int(now.timestamp()), "exp": int(ends.timestamp())}
    return jwt.encode(claims, _signing_key(secret), algorithm="HS256")


def read_user_token(secret: str, token: str, now: datetime) -> str:
    """Return the user id of a valid token.

    Raises Unauthenticated for a wrong signature, any algorithm but HS256, a missing `sub` or `exp`, or an ended life.
    """
    try:
        claims = jwt.decode(
            token,
            _signing_key(secret),
            algorithms=["HS256"],
            # times are compared below against the clock that was passed in
            options={"require": ["sub", "exp"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
        expires = float(claims["exp"])
        starts = float(claims.get("nbf", 0))
    except (jwt.InvalidTokenError, TypeError, ValueError) as error:
        raise Unauthenticated(
            "The user token is not valid: sign it with HS256 and the user secret, with the claims sub and exp.",
            code="invalid_token",
        ) from error
    moment = now.timestamp()
    # written so that a NaN in `exp` or `nbf` is refused too
    if not expires > moment - LEEWAY_SECONDS:
        raise Unauthenticated("The user token has expired: get a new one.", code="token_expired")
    if not expires <= moment + MAX_TOKEN_LIFE.total_seconds() + LEEWAY_SECONDS:
        raise Unauthenticated("The user token lives too long: exp may be at most 30 days away.", code="invalid_token")
    if not starts <= moment + LEEWAY_SECONDS:
        raise Unauthenticated("The user token is not valid yet.", code="invalid_token")
    user_id: str = claims["sub"]
    if not user_id:
        raise Unauthenticated("The user token names no user: its claim sub is empty.", code="invalid_token")
    return user_id


def _signing_key(secret: str) -> bytes:
    """Return the HMAC key of a secret.

    RFC 7518 §3.2 wants at least 256 bits. A shorter secret is padded with zero bytes, which is what HMAC itself does
    (RFC 2104 §2), so tokens that a host signs with the short secret keep matching and no library warns at each call.
    """
    return secret.encode().ljust(32, b"\0")


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECK_LENGTH)
