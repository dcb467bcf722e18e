"""Verification of webhooks from SMS providers, over the bytes that were received. Pure.

Each function returns the fields of the webhook, or raises Unauthenticated without telling what was expected.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from urllib.parse import parse_qs, parse_qsl, urlsplit

import jwt
import msgspec

from tidings.errors import Unauthenticated

#: how far the time of a webhook may be from ours
TOLERANCE = timedelta(minutes=5)
_HMAC_METHODS = frozenset({"md5", "sha1", "sha256", "sha512"})


def verify_twilio(url: str, body: bytes, signature: str | None, tokens: Sequence[str]) -> Mapping[str, str]:
    """Return the fields of a webhook of Twilio. signature: header `X-Twilio-Signature`; tokens: valid auth tokens.

    `url` is the public URL with its query, exactly as configured at Twilio. A JSON body is covered by the parameter
    `bodySHA256` of the URL; its fields are returned as texts. Raises Unauthenticated.
    """
    if not signature:
        raise Unauthenticated("the webhook has no X-Twilio-Signature")
    digest = parse_qs(urlsplit(url).query).get("bodySHA256")
    pairs: list[tuple[str, str]] = []
    if digest is not None:
        if not hmac.compare_digest(digest[0].lower().encode(), hashlib.sha256(body).hexdigest().encode()):
            raise _refuse()
        fields = _parse_json(body)
    else:
        pairs = _parse_form(body)
        fields = dict(pairs)
    # names in order, and the different values of one name in order
    signed = "".join(name + value for name, value in sorted(set(pairs)))
    is_valid = False
    for candidate in _list_spellings(url):
        for token in tokens:
            expected = b64encode(hmac.digest(token.encode(), (candidate + signed).encode(), "sha1"))
            is_valid |= hmac.compare_digest(expected, signature.encode())
    if not is_valid:
        raise _refuse()
    return fields


def verify_vonage_token(
    body: bytes, authorization: str | None, secrets: Sequence[str], now: datetime, *, api_key: str | None = None
) -> Mapping[str, str]:
    """Return the fields of a webhook of Vonage that is signed with a token. authorization: the header's value.

    The token (HS256) has the body's SHA-256 as `payload_hash`, and the account as `api_key`. Raises Unauthenticated.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("the webhook has no bearer token")
    for secret in secrets:
        try:
            claims = jwt.decode(
                token.strip(),
                secret,
                algorithms=["HS256"],
                # both are compared with our clock below
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.InvalidTokenError:
            continue
        if not _is_claim_valid(claims, body, now, api_key):
            raise _refuse()
        return _parse_fields(body)
    raise _refuse()


def verify_vonage_signature(
    body: bytes, query: str, secrets: Sequence[str], now: datetime, *, method: str = "sha256"
) -> Mapping[str, str]:
    """Return the fields of a webhook of Vonage that is signed with the parameter `sig`, in the body or in the query.

    method: the signature method of the account: `sha256`, `sha512`, `sha1`, `md5` (HMAC), or `md5hash`. `timestamp`
    must be near `now`. Raises Unauthenticated, ValueError for an unknown method.
    """
    if method != "md5hash" and method not in _HMAC_METHODS:
        raise ValueError(f"{method!r} is not a signature method")
    fields = dict(_parse_fields(body)) if body.strip() else dict(_parse_form(query.encode()))
    given = fields.pop("sig", "")
    signed = "".join(f"&{name}={_escape(fields[name])}" for name in sorted(fields))
    is_valid = False
    for secret in secrets:
        if method == "md5hash":
            expected = hashlib.md5((signed + secret).encode(), usedforsecurity=False).hexdigest()
        else:
            expected = hmac.new(secret.encode(), signed.encode(), method).hexdigest()
        is_valid |= hmac.compare_digest(expected.encode(), given.lower().encode())
    if not is_valid or not _is_recent(fields.get("timestamp"), now):
        raise _refuse()
    return fields


def _is_claim_valid(claims: Mapping[str, object], body: bytes, now: datetime, api_key: str | None) -> bool:
    digest = claims.get("payload_hash")
    if not isinstance(digest, str):
        return False
    if not hmac.compare_digest(digest.lower().encode(), hashlib.sha256(body).hexdigest().encode()):
        return False
    if api_key is not None and claims.get("api_key") != api_key:
        return False
    return _is_recent(claims.get("iat"), now)


def _is_recent(timestamp: object, now: datetime) -> bool:
    """Return whether Unix seconds are near now."""
    try:
        seconds = float(str(timestamp))
    except ValueError:
        return False
    return abs(seconds - now.timestamp()) <= TOLERANCE.total_seconds()


def _list_spellings(url: str) -> list[str]:
    """Return the URL with and without the default port: Twilio signs either."""
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    if default is None:
        return [url]
    if parts.port is None:
        return [url, parts._replace(netloc=f"{parts.netloc}:{default}").geturl()]
    if parts.port == default:
        return [url, parts._replace(netloc=parts.netloc.rpartition(":")[0]).geturl()]
    return [url]


def _parse_fields(body: bytes) -> Mapping[str, str]:
    return _parse_json(body) if body.lstrip().startswith(b"{") else dict(_parse_form(body))


def _parse_form(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError:
        raise _refuse() from None


def _parse_json(body: bytes) -> Mapping[str, str]:
    try:
        values = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _refuse() from None
    return {name: value if isinstance(value, str) else _format_value(value) for name, value in values.items()}


def _format_value(value: object) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()


def _escape(value: str) -> str:
    """Return a value as Vonage signs it: separators become underscores."""
    return value.replace("&", "_").replace("=", "_")


def _refuse() -> Unauthenticated:
    return Unauthenticated("the signature of the webhook is invalid")
