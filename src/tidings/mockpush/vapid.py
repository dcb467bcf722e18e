"""Verification of the `vapid` Authorization header (RFC 8292)."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tidings.mockpush.base64url import decode
from tidings.mockpush.responses import Refusal

#: maximum lifetime of a token, seconds (RFC 8292 §2)
MAX_TOKEN_TTL = 24 * 3600
#: cached tokens; a sender needs one per origin and key
_MAX_CACHED_TOKENS = 4096

_SCHEME = re.compile(r"vapid[ \t]+(.+)\Z", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r'([A-Za-z]+)[ \t]*=[ \t]*"?([^",\s]*)"?\Z')
_SUBJECT = re.compile(r"(mailto:[^\s<>@]+@[^\s<>@]+|https://[^\s<>]+)\Z")


@dataclass(frozen=True, slots=True)
class Token:
    """A token with a valid signature and valid claims."""

    #: Unix time, seconds
    expires: float
    #: uncompressed public point of the signer, 65 bytes
    key: bytes


class VapidVerifier:
    """Verifies Authorization headers and caches valid ones, because senders reuse tokens (RFC 8292 §5)."""

    def __init__(self, audiences: Collection[str], keys: Collection[bytes] = ()) -> None:
        """Arguments: audiences — origins of this service; keys — keys with which every device was subscribed, or none
        to accept any key."""
        self._audiences = frozenset(audiences)
        self._keys = frozenset(keys)
        self._device_keys: dict[str, bytes] = {}
        self._tokens: dict[bytes, Token] = {}

    def bind(self, device: str, key: bytes) -> None:
        """Set the public key with which a device was subscribed; other keys are refused from then on."""
        self._device_keys[device] = key

    def unbind_all(self) -> None:
        """Remove every device's key."""
        self._device_keys.clear()

    def check_authorization(self, authorization: bytes | None, device: str, now: float) -> Refusal | None:
        """Return why the header does not authorize a push to the device at Unix time `now`, or None if it does."""
        if authorization is None:
            return Refusal(401, "vapid_missing", "the Authorization header is missing (RFC 8292 §2)")
        token = self._tokens.get(authorization)
        if token is None:
            verified = verify_token(authorization, self._audiences, now)
            if isinstance(verified, Refusal):
                return verified
            token = self._cache_token(authorization, verified)
        if token.expires <= now:
            return Refusal(403, "vapid_expired", "exp has passed")
        return self._check_key(device, token.key)

    def _check_key(self, device: str, key: bytes) -> Refusal | None:
        device_key = self._device_keys.get(device)
        if key == device_key if device_key is not None else not self._keys or key in self._keys:
            return None
        return Refusal(403, "vapid_key_mismatch", "the device was subscribed with another applicationServerKey")

    def _cache_token(self, authorization: bytes, token: Token) -> Token:
        if len(self._tokens) >= _MAX_CACHED_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[authorization] = token
        return token


def verify_token(authorization: bytes, audiences: Collection[str], now: float) -> Token | Refusal:
    """Return the token of an Authorization header, or why it is refused.

    Arguments: authorization — header value; audiences — accepted origins; now — Unix time, seconds.
    Rules: RFC 8292 §2 (claims, ES256), §3 (parameters `t` and `k`); 401 if the header cannot be parsed, else 403.
    """
    parameters = _parse_parameters(authorization)
    if parameters is None:
        return Refusal(401, "vapid_malformed", "Authorization must be `vapid t=<token>, k=<key>` (RFC 8292 §3)")
    token, public = parameters.get("t", ""), parameters.get("k", "")
    try:
        point = decode(public)
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        point = b""
    if len(point) != 65:
        return Refusal(401, "vapid_malformed", "k must be an uncompressed P-256 point in base64url")
    claims = _verify_signature(token, key)
    if isinstance(claims, Refusal):
        return claims
    return _check_claims(claims, point, audiences, now)


def _parse_parameters(authorization: bytes) -> Mapping[str, str] | None:
    scheme = _SCHEME.match(authorization.decode("latin-1").strip())
    if scheme is None:
        return None
    parameters: dict[str, str] = {}
    for part in scheme[1].split(","):
        parameter = _PARAMETER.match(part.strip())
        if parameter is None or parameter[1].lower() in parameters:
            return None
        parameters[parameter[1].lower()] = parameter[2]
    return parameters


def _verify_signature(token: str, key: ec.EllipticCurvePublicKey) -> Mapping[str, object] | Refusal:
    signed, _, signature_text = token.rpartition(".")
    try:
        header, claims = (json.loads(decode(part)) for part in signed.split("."))
        signature = decode(signature_text)
    except (ValueError, RecursionError):
        return Refusal(401, "vapid_malformed", "t must be a JWT of three base64url parts")
    if not isinstance(header, dict) or not isinstance(claims, dict):
        return Refusal(401, "vapid_malformed", "header and claims of the JWT must be JSON objects")
    if header.get("alg") != "ES256" or len(signature) != 64:
        return Refusal(403, "vapid_algorithm", "the token must be signed with ES256 (RFC 8292 §2)")
    der = utils.encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    try:
        key.verify(der, signed.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return Refusal(403, "vapid_signature", "the signature does not match the key k")
    return claims


def _check_claims(claims: Mapping[str, object], key: bytes, audiences: Collection[str], now: float) -> Token | Refusal:
    audience, expires, subject = claims.get("aud"), claims.get("exp"), claims.get("sub")
    if not isinstance(audience, str) or audience not in audiences:
        return Refusal(403, "vapid_audience", f"aud is {audience!r}, expected {' or '.join(sorted(audiences))}")
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        return Refusal(403, "vapid_expiry", "exp must be a number of seconds since 1970")
    if expires <= now:
        return Refusal(403, "vapid_expired", "exp has passed")
    if expires > now + MAX_TOKEN_TTL:
        return Refusal(403, "vapid_expiry", "exp is more than 24 hours ahead (RFC 8292 §2)")
    if not isinstance(subject, str) or not _SUBJECT.match(subject):
        return Refusal(403, "vapid_subject", "sub must be a mailto: or https: address without blanks or <>")
    return Token(float(expires), key)
