"""VAPID keys and the signed tokens that identify this server to push services (RFC 8292)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import msgspec
from cachetools import LRUCache
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tidings.channels.webpush import base64url
from tidings.errors import ConfigError
from tidings.model.ids import new_id
from tidings.model.subscription import VapidKey

#: at most 24 h (RFC 8292 §2); half of that tolerates clocks that are wrong
TOKEN_LIFETIME = timedelta(hours=12)
#: minimum age of a token that was refused as soon as it was signed, before another one is signed
MIN_RENEWAL_INTERVAL = timedelta(hours=1)
SUBJECT_SETTING = "TIDINGS_VAPID_SUBJECT"

_CURVE = ec.SECP256R1()
_SIGNATURE = ec.ECDSA(SHA256())
_JWT_HEADER = base64url.encode(b'{"typ":"JWT","alg":"ES256"}')
#: tokens cached; the number of origins is unbounded because of wildcard hosts
_MAX_TOKENS = 1024
_FORBIDDEN_IN_SUBJECT = re.compile(r"[\s<>\x00-\x1f\x7f]")
_UNREACHABLE_SUFFIXES = ("localhost", ".localhost", ".invalid", ".local")


def generate_key(now: datetime) -> VapidKey:
    """Return a new key pair."""
    private = ec.generate_private_key(_CURVE)
    scalar = private.private_numbers().private_value
    return VapidKey(new_id(now), scalar.to_bytes(32, "big"), _encode_public_key(private), now)


def check_key(key: VapidKey) -> None:
    """Raise ConfigError if the public and the private part of a stored key do not match."""
    try:
        matches = _encode_public_key(_load_private_key(key)) == key.public
    except ValueError:
        matches = False
    if not matches:
        raise ConfigError(
            "TIDINGS_SECRET_KEY",
            f"the stored VAPID key {key.id} is damaged or was encrypted with another secret; restore that secret",
        )


def check_subject(subject: str) -> str:
    """Return the contact for push services unchanged.

    Raises ConfigError unless it is a reachable `mailto:` or `https:` URL: Apple answers 403 to placeholders.
    """
    fix = "give a real contact, e.g. mailto:ops@your-company.com or https://your-company.com/contact"
    if _FORBIDDEN_IN_SUBJECT.search(subject):
        raise ConfigError(SUBJECT_SETTING, f"must not contain blanks, control characters, < or >; {fix}")
    host = _parse_subject_host(subject)
    if host is None:
        raise ConfigError(SUBJECT_SETTING, f"must begin with mailto: or https: and name a host; {fix}")
    if host.rstrip(".").endswith(_UNREACHABLE_SUFFIXES) or "." not in host:
        raise ConfigError(SUBJECT_SETTING, f"{host} is not publicly reachable, and push services reject it; {fix}")
    return subject


def _parse_subject_host(subject: str) -> str | None:
    scheme, _, rest = subject.partition(":")
    if scheme == "mailto":
        name, at, host = rest.partition("?")[0].rpartition("@")
        return host.lower() if name and at and host else None
    if scheme == "https":
        try:
            return urlsplit(subject).hostname
        except ValueError:
            return None
    return None


def sign_token(key: VapidKey, *, audience: str, subject: str, expires_at: datetime) -> str:
    """Return a signed JWT for one push service. `audience` is its origin without a trailing slash."""
    claims = msgspec.json.encode({"aud": audience, "exp": int(expires_at.timestamp()), "sub": subject})
    signing_input = f"{_JWT_HEADER}.{base64url.encode(claims)}"
    r, s = decode_dss_signature(_load_private_key(key).sign(signing_input.encode("ascii"), _SIGNATURE))
    return f"{signing_input}.{base64url.encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def format_authorization(key: VapidKey, token: str) -> str:
    """Return the value of the `Authorization` header (RFC 8292 §3)."""
    return f"vapid t={token}, k={base64url.encode(key.public)}"


@dataclass(frozen=True, slots=True)
class _CachedToken:
    authorization: str
    renew_at: datetime
    #: a token is not used before this time: after the clock was set back its `exp` may be more than 24 h ahead
    issued_at: datetime


class VapidSigner:
    """Creates the `Authorization` header for an origin and reuses each token for half of its lifetime.

    RFC 8292 §5 encourages reuse. Apple allows at most one new token per hour.
    """

    def __init__(self, keys: Sequence[VapidKey], subject: str) -> None:
        """`subject` is the contact claim. Raises ConfigError for an invalid contact or a damaged key."""
        self._subject = check_subject(subject)
        self._keys: dict[str, VapidKey] = {}
        self._tokens: LRUCache[tuple[str, str], _CachedToken] = LRUCache(_MAX_TOKENS)
        #: tokens that replaced a refused one and were not accepted yet, with the time of their signature
        self._unproven: LRUCache[tuple[str, str], datetime] = LRUCache(_MAX_TOKENS)
        self.set_keys(keys)

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the keys. Tokens of keys that remain are kept."""
        for key in keys:
            check_key(key)
        self._keys = {key.id: key for key in keys}
        for pair in [pair for pair in self._tokens if pair[1] not in self._keys]:
            del self._tokens[pair]

    def get_authorization(self, origin: str, key_id: str, now: datetime) -> str | None:
        """Return the header's value for an origin such as `https://push.example.net`, None for an unknown key."""
        pair = (origin, key_id)
        cached = self._tokens.get(pair)
        if cached is not None and cached.issued_at <= now < cached.renew_at:
            return cached.authorization
        return self._sign(pair, now)

    def renew(self, origin: str, key_id: str, refused: str, now: datetime) -> bool:
        """Replace the token in a refused `Authorization` header. Returns False if a fresh token would not help.

        A token that replaced a refused one, and was refused itself, is replaced again after an hour: Apple allows one
        new token per hour.
        """
        pair = (origin, key_id)
        cached = self._tokens.get(pair)
        if cached is not None and cached.authorization != refused:
            # another request has renewed it
            return True
        signed_at = self._unproven.get(pair)
        if signed_at is not None and signed_at <= now < signed_at + MIN_RENEWAL_INTERVAL:
            return False
        self._unproven[pair] = now
        return self._sign(pair, now) is not None

    def mark_accepted(self, origin: str, key_id: str) -> None:
        """Remember that the push service accepts the current token."""
        if self._unproven:
            self._unproven.pop((origin, key_id), None)

    def _sign(self, pair: tuple[str, str], now: datetime) -> str | None:
        origin, key_id = pair
        key = self._keys.get(key_id)
        if key is None:
            return None
        token = sign_token(key, audience=origin, subject=self._subject, expires_at=now + TOKEN_LIFETIME)
        cached = _CachedToken(format_authorization(key, token), now + TOKEN_LIFETIME / 2, now)
        self._tokens[pair] = cached
        return cached.authorization


def _load_private_key(key: VapidKey) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(key.private, "big"), _CURVE)


def _encode_public_key(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
