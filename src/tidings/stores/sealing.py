"""Encryption at rest: what a thief of the database file must not read (endpoints, device keys, private keys)."""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tidings.errors import ConfigError

_VERSION = b"\x01"
_NONCE = 12


class Sealer:
    """Seals bytes with AES-256-GCM under a key derived from `TIDINGS_SECRET_KEY` (HKDF-SHA256, RFC 5869).

    `context` is authenticated with the bytes, so a box cannot be moved to another row.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < 16:
            raise ConfigError("TIDINGS_SECRET_KEY", "must have at least 16 characters; try `openssl rand -hex 32`")
        self._box = AESGCM(_derive(secret, b"tidings sealing v1"))
        self._digest_key = _derive(secret, b"tidings digest v1")

    def seal(self, plain: bytes, context: str) -> bytes:
        """Return version, nonce and ciphertext."""
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._box.encrypt(nonce, plain, context.encode())

    def unseal(self, sealed: bytes, context: str) -> bytes:
        """Return what was sealed. Raises ConfigError when the key is not the one it was sealed with."""
        if sealed[:1] != _VERSION:
            raise ConfigError("TIDINGS_SECRET_KEY", f"unknown sealing version {sealed[:1].hex()} in the database")
        try:
            return self._box.decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], context.encode())
        except InvalidTag:
            raise ConfigError(
                "TIDINGS_SECRET_KEY", "is not the key this database was sealed with; restore the one from then"
            ) from None

    def digest(self, value: str) -> str:
        """Return a keyed hash (HMAC-SHA256, hex) to find a sealed value by."""
        return hmac.digest(self._digest_key, value.encode(), hashlib.sha256).hex()


def _derive(secret: str, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret.encode())
