"""Encrypted fields decrypt with the right key and context only, and errors name the setting."""

import pytest

from tidings.errors import ConfigError
from tidings.stores.engine.field_encryption import FieldCipher

SEALER = FieldCipher("a secret for the tests")


def test_a_value_decrypts_in_its_own_context() -> None:
    sealed = SEALER.encrypt(b"endpoint", "row-1")
    assert SEALER.decrypt(sealed, "row-1") == b"endpoint"
    assert b"endpoint" not in sealed
    assert SEALER.encrypt(b"endpoint", "row-1") != sealed, "a nonce is never used twice"


@pytest.mark.parametrize(
    ("cipher", "context", "spoil"),
    [(FieldCipher("another secret than that"), "row-1", 0), (SEALER, "row-2", 0), (SEALER, "row-1", 1)],
    ids=["another key", "another row", "a changed byte"],
)
def test_a_value_does_not_decrypt_in_another_context(cipher: FieldCipher, context: str, spoil: int) -> None:
    sealed = bytearray(SEALER.encrypt(b"endpoint", "row-1"))
    sealed[-1] ^= spoil
    with pytest.raises(ConfigError, match="TIDINGS_SECRET_KEY: is not the key"):
        cipher.decrypt(bytes(sealed), context)


def test_an_unknown_version_is_reported() -> None:
    with pytest.raises(ConfigError, match="unknown encryption format 02"):
        SEALER.decrypt(b"\x02" + b"x" * 40, "row-1")


def test_a_short_secret_is_rejected_with_the_command_that_generates_one() -> None:
    with pytest.raises(ConfigError, match="openssl rand"):
        FieldCipher("short")


def test_blind_indexes_depend_on_the_key() -> None:
    assert SEALER.blind_index("https://push.example/1") == FieldCipher("a secret for the tests").blind_index(
        "https://push.example/1"
    )
    assert SEALER.blind_index("https://push.example/1") != FieldCipher("another secret than that").blind_index(
        "https://push.example/1"
    )
