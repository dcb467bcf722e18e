"""DKIM signatures (RFC 6376), for installations whose relay does not sign."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tidings.errors import ConfigError

#: signed headers. Mail providers honour one-click unsubscription only if both headers are signed (RFC 8058 §4)
SIGNED_HEADERS: Final = (
    b"from",
    b"to",
    b"subject",
    b"date",
    b"message-id",
    b"in-reply-to",
    b"references",
    b"reply-to",
    b"mime-version",
    b"content-type",
    b"auto-submitted",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
)
SETTING: Final = "TIDINGS_EMAIL__DKIM_KEY_FILE"


class DkimSigner:
    """Signs messages with one key."""

    def __init__(self, key_file: Path, selector: str, domain: str) -> None:
        """Raises ConfigError if the file contains no RSA key of at least 1024 bits in PEM."""
        try:
            self._key = key_file.read_bytes()
            key = load_pem_private_key(self._key, password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(SETTING, f"cannot read an RSA key from {key_file}: {error}") from error
        if not isinstance(key, RSAPrivateKey) or key.key_size < 1024:
            raise ConfigError(SETTING, f"{key_file} must contain an RSA key of at least 1024 bits, better 2048")
        # imported here: most installations let their relay sign, and `dkim` loads a DNS library
        import dkim

        self._sign: Callable[..., bytes] = dkim.sign
        self._selector = selector.encode("ascii")
        self._domain = domain.encode("ascii")

    def sign(self, message: bytes) -> bytes:
        """Return the message with a signature as its first header. Takes some milliseconds."""
        signature = self._sign(
            message,
            self._selector,
            self._domain,
            self._key,
            canonicalize=(b"relaxed", b"relaxed"),
            include_headers=list(SIGNED_HEADERS),
        )
        return signature + message
