"""The proof with which a browser replaces its own push subscription without a user token.

A service worker learns of a rotated subscription while no page is open, and it has no user token. It proves that
it knows the `auth` secret of the old subscription, which only the browser and this server know (RFC 8291 §3.2):

    key   = HKDF-SHA256(auth, salt = "", info = "tidings push renewal v1", 32 bytes)
    proof = HMAC-SHA256(key, lines joined by "\\n": old endpoint, new endpoint, p256dh, auth)

The lines contain the values exactly as sent in the request. None of them can contain a line feed: an endpoint is a
checked URL, the keys are base64url. The worker computes the same in `web/sw.js`.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tidings.channels.webpush import base64url

_INFO = b"tidings push renewal v1"
#: length of a proof in bytes
PROOF_LENGTH = 32


def compute_proof(old_auth: bytes, *, replaces: str, endpoint: str, p256dh: str, auth: str) -> bytes:
    """Return the proof, 32 bytes.

    old_auth: the `auth` secret of the old subscription, 16 bytes. replaces: its endpoint. endpoint, p256dh, auth: the
    new subscription as in `PushSubscription.toJSON()`.
    """
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=_INFO).derive(old_auth)
    return hmac.digest(key, "\n".join((replaces, endpoint, p256dh, auth)).encode(), hashlib.sha256)


def is_proof(given: str, expected: bytes) -> bool:
    """Return whether `given`, base64url, is the expected proof. Takes the same time for every wrong one."""
    try:
        decoded = base64url.decode(given)
    except ValueError:
        return False
    return hmac.compare_digest(decoded, expected)
