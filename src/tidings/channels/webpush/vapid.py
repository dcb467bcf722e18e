"""Who we are to push services: VAPID keys and signed tokens, one token per origin and key for hours (RFC 8292)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tidings.channels.webpush import base64url
from tidings.errors import ConfigError
from tidings.model.ids import new_id
from tidings.model.subscription import VapidKey

#: at most 24 h (RFC 8292 §2); half of that leaves room for clocks that are wrong
LIFETIME = timedelta(hours=12)
SUBJECT_SETTING = "TIDINGS_VAPID_SUBJECT"

_CURVE = ec.SECP256R1()
_SIGNATURE = ec.ECDSA(SHA256())
_HEADER = base64url.encode(b'{"typ":"JWT","alg":"ES256"}')
#: tokens kept: wildcard hosts make the number of origins open-ended
_MAX_TOKENS = 1024
_FORBIDDEN_IN_SUBJECT = re.compile(r"[\s<>\x00-\x1f\x7f]")
_UNREAL = ("localhost", ".localhost", ".invalid", ".local")


def generate_key(now: datetime) -> VapidKey:
    """Return a new key pair."""
    private = ec.generate_private_key(_CURVE)
    scalar = private.private_numbers().private_value
    return VapidKey(new_id(now), scalar.to_bytes(32, "big"), _public_bytes(private), now)


def check_key(key: VapidKey) -> None:
    """Raise ConfigError if the two halves of a stored key do not belong together."""
    try:
        matches = _public_bytes(_private(key)) == key.public
    except ValueError:
        matches = False
    if not matches:
        raise ConfigError(
            "TIDINGS_SECRET_KEY",
            f"the stored VAPID key {key.id} is damaged or was encrypted under another secret; restore the secret it "
            "was made with",
        )


def check_subject(subject: str) -> str:
    """Return the contact that push services may write to, as it was given.

    Raises ConfigError unless it is a real `mailto:` or `https:` address: Apple answers 403 to placeholders.
    """
    fix = "give a real contact, e.g. mailto:ops@your-company.com or https://your-company.com/contact"
    if _FORBIDDEN_IN_SUBJECT.search(subject):
        raise ConfigError(SUBJECT_SETTING, f"must not have blanks, control characters, < or >; {fix}")
    host = _subject_host(subject)
    if host is None:
        raise ConfigError(SUBJECT_SETTING, f"must begin with mailto: or https: and name a host; {fix}")
    if host.rstrip(".").endswith(_UNREAL) or "." not in host:
        raise ConfigError(SUBJECT_SETTING, f"{host} is not reachable by anybody, push services refuse it; {fix}")
    return subject


def _subject_host(subject: str) -> str | None:
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
    """Return a signed JWT for one push service. `audience` is its bare origin, without a trailing slash."""
    claims = msgspec.json.encode({"aud": audience, "exp": int(expires_at.timestamp()), "sub": subject})
    signed = f"{_HEADER}.{base64url.encode(claims)}"
    r, s = decode_dss_signature(_private(key).sign(signed.encode("ascii"), _SIGNATURE))
    return f"{signed}.{base64url.encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def authorization(key: VapidKey, token: str) -> str:
    """Return the value of the `Authorization` header (RFC 8292 §3)."""
    return f"vapid t={token}, k={base64url.encode(key.public)}"


@dataclass(frozen=True, slots=True)
class _Signed:
    header: str
    renew_at: datetime
    #: a clock that was set back must not keep a token whose `exp` is then more than 24 h ahead
    issued_at: datetime


class Signer:
    """Gives the `Authorization` header for an origin, reusing each token until less than half of its life is left.

    Reuse is what RFC 8292 §5 encourages; Apple wants at most one new token an hour.
    """

    def __init__(self, keys: Sequence[VapidKey], subject: str) -> None:
        """`subject` is the contact claim. Raises ConfigError for a wrong contact or a damaged key."""
        self._subject = check_subject(subject)
        self._keys: dict[str, VapidKey] = {}
        self._tokens: dict[tuple[str, str], _Signed] = {}
        self.set_keys(keys)

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the known keys. Tokens of keys that stay are kept."""
        for key in keys:
            check_key(key)
        self._keys = {key.id: key for key in keys}
        self._tokens = {pair: signed for pair, signed in self._tokens.items() if pair[1] in self._keys}

    def header(self, origin: str, key_id: str, now: datetime) -> str | None:
        """Return the header's value for an origin such as `https://push.example.net`, None for an unknown key."""
        pair = (origin, key_id)
        known = self._tokens.get(pair)
        if known is not None and known.issued_at <= now < known.renew_at:
            return known.header
        key = self._keys.get(key_id)
        if key is None:
            return None
        token = sign_token(key, audience=origin, subject=self._subject, expires_at=now + LIFETIME)
        signed = _Signed(authorization(key, token), now + LIFETIME / 2, now)
        if len(self._tokens) >= _MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[pair] = signed
        return signed.header


def _private(key: VapidKey) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(key.private, "big"), _CURVE)


def _public_bytes(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
