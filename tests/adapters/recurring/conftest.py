"""A store on each database."""

import pytest

from tidings.stores.store import SqlStore


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest) -> SqlStore:
    store: SqlStore = request.getfixturevalue("store" if request.param == "sqlite" else "postgres_store")
    return store
