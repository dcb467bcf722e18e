"""What every test may ask for: a frozen clock, and a store on a fresh SQLite file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tidings.packs import core, events
from tidings.stores.sealing import Sealer
from tidings.stores.sqlite import engines
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock

# the suites for adapters are ordinary modules: without this their asserts would say nothing when they fail
pytest.register_assert_rewrite("tidings.testing.contracts")

KINDS = {kind.name: kind for pack in (core.pack, events.pack) for kind in pack.audiences}


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """An upgraded store on `tmp_path / "tidings.db"`, with the audiences of the built-in packs."""
    opened = SqlStore(*engines(tmp_path / "tidings.db"), Sealer("a secret for the tests"), KINDS)
    await opened.upgrade()
    yield opened
    await opened.close()
