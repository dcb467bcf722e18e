"""Encryption of a Web Push message for one device: `aes128gcm` with a single record (RFC 8188, RFC 8291)."""

import os

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

RECORD_SIZE = 4096
#: bytes that fit in one record of 4096 bytes besides header, padding delimiter and tag (RFC 8291 §4)
MAX_PLAINTEXT = 3993
#: bytes that every browser receives: Firefox for Android's bridge is limited to 2 744 bytes in all
DEFAULT_MAX_PAYLOAD = 2641

KEY_LENGTH = 65
AUTH_LENGTH = 16

_CURVE = ec.SECP256R1()
_ECDH = ec.ECDH()
_SHA256 = SHA256()
_HEADER_TAIL = RECORD_SIZE.to_bytes(4, "big") + bytes([KEY_LENGTH])
_KEY_INFO = b"WebPush: info\x00"
_CEK_INFO = b"Content-Encoding: aes128gcm\x00\x01"
_NONCE_INFO = b"Content-Encoding: nonce\x00\x01"
_LAST_RECORD = b"\x02"


def encrypt(
    plaintext: bytes,
    p256dh: bytes,
    auth: bytes,
    *,
    salt: bytes | None = None,
    private_key: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """Return the request body for one device: a header of 86 bytes and one record.

    `p256dh` is the device's uncompressed public key (65 bytes), `auth` its secret (16 bytes). `salt` (16 bytes) and
    `private_key` are for test vectors. By default both are new for each message, as RFC 8291 §3.1 requires.
    Raises ValueError if the plaintext is longer than 3 993 bytes or the key is not a point of P-256.
    """
    if len(plaintext) > MAX_PLAINTEXT:
        raise ValueError(f"plaintext has {len(plaintext)} bytes; the maximum is {MAX_PLAINTEXT}")
    device = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, p256dh)
    sender_key = private_key or ec.generate_private_key(_CURVE)
    public = sender_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    salt = salt or os.urandom(16)
    shared = sender_key.exchange(_ECDH, device)
    # RFC 8291 §3.4: both HKDFs need at most one block, so each step is a single HMAC with counter byte 1
    key_material = _hmac(_hmac(auth, shared), _KEY_INFO + p256dh + public + b"\x01")
    return salt + _HEADER_TAIL + public + encrypt_record(plaintext, salt, key_material)


def encrypt_record(plaintext: bytes, salt: bytes, key_material: bytes) -> bytes:
    """Return the only record of `aes128gcm` content (RFC 8188 §2)."""
    prk = _hmac(salt, key_material)
    key = _hmac(prk, _CEK_INFO)[:16]
    nonce = _hmac(prk, _NONCE_INFO)[:12]
    return AESGCM(key).encrypt(nonce, plaintext + _LAST_RECORD, None)


def _hmac(key: bytes, message: bytes) -> bytes:
    # measured: 2.2 µs, `hmac.digest` 3.3 µs, `HKDF` objects 5.3 µs for two steps
    mac = HMAC(key, _SHA256)
    mac.update(message)
    return mac.finalize()
