"""Field encryption at rest: endpoints, device keys and VAPID private keys."""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tidings.errors import ConfigError

_FORMAT_VERSION = b"\x01"
_NONCE_LENGTH = 12


class FieldCipher:
    """Encrypts bytes with AES-256-GCM under a key derived from `TIDINGS_SECRET_KEY` (HKDF-SHA256, RFC 5869).

    `context` is the additional authenticated data, so a ciphertext cannot be moved to another row.
    Raises ConfigError for a secret of fewer than 16 characters.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < 16:
            raise ConfigError("TIDINGS_SECRET_KEY", "must have at least 16 characters; try `openssl rand -hex 32`")
        self._aead = AESGCM(_derive_key(secret, b"tidings sealing v1"))
        self._index_key = _derive_key(secret, b"tidings digest v1")

    def encrypt(self, plaintext: bytes, context: str) -> bytes:
        """Return version, nonce and ciphertext."""
        nonce = os.urandom(_NONCE_LENGTH)
        return _FORMAT_VERSION + nonce + self._aead.encrypt(nonce, plaintext, context.encode())

    def decrypt(self, ciphertext: bytes, context: str) -> bytes:
        """Return the plaintext of a value of `encrypt`. Raises ConfigError if it was encrypted with another key."""
        if ciphertext[:1] != _FORMAT_VERSION:
            raise ConfigError("TIDINGS_SECRET_KEY", f"unknown encryption format {ciphertext[:1].hex()} in the database")
        try:
            return self._aead.decrypt(
                ciphertext[1 : 1 + _NONCE_LENGTH], ciphertext[1 + _NONCE_LENGTH :], context.encode()
            )
        except InvalidTag:
            raise ConfigError(
                "TIDINGS_SECRET_KEY", "is not the key this database was encrypted with; restore the original key"
            ) from None

    def blind_index(self, value: str) -> str:
        """Return the keyed hash (HMAC-SHA256, hex) by which an encrypted value is found."""
        return hmac.digest(self._index_key, value.encode(), hashlib.sha256).hex()


def _derive_key(secret: str, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret.encode())
