"""Opening a push message as a browser does (RFC 8291, RFC 8188), written apart from the sender it judges."""

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tidings.testing.mock_push.devices import Receiver

_HEADER = struct.Struct("!16sIB")
_TAG = 16
_LAST_RECORD = 2


class Undecryptable(ValueError):
    """The body is not a message this device can read; the text says at which step it failed."""


def decrypt(receiver: Receiver, body: bytes) -> bytes:
    """Return the plaintext of an `aes128gcm` body meant for the device.

    Raises Undecryptable. Rules: header RFC 8188 §2.1; keys RFC 8291 §3.4; one record only, RFC 8291 §4.
    """
    salt, sender_public, sealed = _read(body)
    key_material = _key_material(receiver, sender_public)
    pseudo_random = hmac.digest(salt, key_material, hashlib.sha256)
    key = hmac.digest(pseudo_random, b"Content-Encoding: aes128gcm\0\x01", hashlib.sha256)[:16]
    nonce = hmac.digest(pseudo_random, b"Content-Encoding: nonce\0\x01", hashlib.sha256)[:12]
    try:
        padded = AESGCM(key).decrypt(nonce, sealed, None)
    except InvalidTag:
        raise Undecryptable("the authentication tag does not match: other keys, or the body was changed") from None
    return _unpad(padded)


def _read(body: bytes) -> tuple[bytes, bytes, bytes]:
    if len(body) < _HEADER.size:
        raise Undecryptable("the body is shorter than the aes128gcm header")
    salt, record_size, id_length = _HEADER.unpack_from(body)
    sealed = body[_HEADER.size + id_length :]
    if id_length != 65:
        raise Undecryptable(f"keyid must be the sender's public key of 65 bytes, it has {id_length}")
    if record_size < _TAG + 2:
        raise Undecryptable(f"the record size {record_size} is below 18 (RFC 8188 §2.1)")
    if len(sealed) > record_size:
        raise Undecryptable("the message has more than one record (RFC 8291 §4)")
    if len(sealed) <= _TAG:
        raise Undecryptable("the record is cut off")
    return salt, body[_HEADER.size : _HEADER.size + id_length], sealed


def _key_material(receiver: Receiver, sender_public: bytes) -> bytes:
    try:
        sender = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender_public)
    except ValueError:
        raise Undecryptable("the sender's public key is not a point on P-256") from None
    shared = receiver.key.exchange(ec.ECDH(), sender)
    device = receiver.device
    pseudo_random = hmac.digest(device.auth, shared, hashlib.sha256)
    info = b"WebPush: info\0" + device.p256dh + sender_public + b"\x01"
    return hmac.digest(pseudo_random, info, hashlib.sha256)


def _unpad(padded: bytes) -> bytes:
    content = padded.rstrip(b"\0")
    if not content or content[-1] != _LAST_RECORD:
        raise Undecryptable("the last record does not end with the delimiter 2 (RFC 8188 §2)")
    return content[:-1]
