"""A Valkey server that the tests of this folder may kill, pause and flush."""

from collections.abc import Iterator

import pytest

from tidings.testing.valkey import ValkeyServer


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server
