"""Decryption of push messages as in a browser (RFC 8291, RFC 8188), independent of the sender's code."""

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tidings.mockpush.devices import Receiver

_HEADER = struct.Struct("!16sIB")
_TAG = 16
_LAST_RECORD = 2


class Undecryptable(ValueError):
    """The device cannot decrypt the body; the text names the step that failed."""


def decrypt(receiver: Receiver, body: bytes) -> bytes:
    """Return the plaintext of an `aes128gcm` body for the device.

    Raises Undecryptable. Rules: header RFC 8188 §2.1; keys RFC 8291 §3.4; one record only, RFC 8291 §4.
    """
    salt, sender_public, ciphertext = _parse_header(body)
    key_material = _derive_key_material(receiver, sender_public)
    pseudo_random = hmac.digest(salt, key_material, hashlib.sha256)
    key = hmac.digest(pseudo_random, b"Content-Encoding: aes128gcm\0\x01", hashlib.sha256)[:16]
    nonce = hmac.digest(pseudo_random, b"Content-Encoding: nonce\0\x01", hashlib.sha256)[:12]
    try:
        padded = AESGCM(key).decrypt(nonce, ciphertext, None)
    except InvalidTag:
        raise Undecryptable("the authentication tag does not match: wrong keys, or the body was altered") from None
    return _unpad(padded)


def _parse_header(body: bytes) -> tuple[bytes, bytes, bytes]:
    if len(body) < _HEADER.size:
        raise Undecryptable("the body is shorter than the aes128gcm header")
    salt, record_size, id_length = _HEADER.unpack_from(body)
    ciphertext = body[_HEADER.size + id_length :]
    if id_length != 65:
        raise Undecryptable(f"keyid must be the sender's public key of 65 bytes, not {id_length}")
    if record_size < _TAG + 2:
        raise Undecryptable(f"the record size {record_size} is below 18 (RFC 8188 §2.1)")
    if len(ciphertext) > record_size:
        raise Undecryptable("the message has more than one record (RFC 8291 §4)")
    if len(ciphertext) <= _TAG:
        raise Undecryptable("the record is truncated")
    return salt, body[_HEADER.size : _HEADER.size + id_length], ciphertext


def _derive_key_material(receiver: Receiver, sender_public: bytes) -> bytes:
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
