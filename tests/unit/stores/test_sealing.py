"""A sealed box opens with the right key in the right row, and says which setting is wrong otherwise."""

import pytest

from tidings.errors import ConfigError
from tidings.stores.sealing import Sealer

SEALER = Sealer("a secret for the tests")


def test_a_box_opens_where_it_was_sealed() -> None:
    sealed = SEALER.seal(b"endpoint", "row-1")
    assert SEALER.unseal(sealed, "row-1") == b"endpoint"
    assert b"endpoint" not in sealed
    assert SEALER.seal(b"endpoint", "row-1") != sealed, "a nonce is never used twice"


@pytest.mark.parametrize(
    ("sealer", "context", "spoil"),
    [(Sealer("another secret than that"), "row-1", 0), (SEALER, "row-2", 0), (SEALER, "row-1", 1)],
    ids=["another key", "another row", "a changed byte"],
)
def test_a_box_does_not_open_elsewhere(sealer: Sealer, context: str, spoil: int) -> None:
    sealed = bytearray(SEALER.seal(b"endpoint", "row-1"))
    sealed[-1] ^= spoil
    with pytest.raises(ConfigError, match="TIDINGS_SECRET_KEY: is not the key"):
        sealer.unseal(bytes(sealed), context)


def test_an_unknown_version_is_told() -> None:
    with pytest.raises(ConfigError, match="unknown sealing version 02"):
        SEALER.unseal(b"\x02" + b"x" * 40, "row-1")


def test_a_short_secret_is_refused_with_the_way_to_make_one() -> None:
    with pytest.raises(ConfigError, match="openssl rand"):
        Sealer("short")


def test_digests_depend_on_the_key() -> None:
    assert SEALER.digest("https://push.example/1") == Sealer("a secret for the tests").digest("https://push.example/1")
    assert SEALER.digest("https://push.example/1") != Sealer("another secret than that").digest(
        "https://push.example/1"
    )
