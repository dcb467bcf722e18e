"""The flow of notifications with steps, on SQLite and on PostgreSQL."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.adapters.conftest import KINDS, SECRET
from tests.support.step_world import StepWorld

from tidings.model import ids
from tidings.stores.engine import postgres, sqlite
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock


@pytest.fixture(autouse=True)
def _reset_id_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the id generator, so that ids have the time of the test's clock."""
    monkeypatch.setattr(ids, "_last_ticks", 0)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Path | str:
    """An empty SQLite file with the newest schema, to be copied, or the URL of an empty PostgreSQL database."""
    name = "upgraded_database" if request.param == "sqlite" else "upgraded_url"
    found: Path | str = request.getfixturevalue(name)
    return found


@pytest.fixture
async def any_store(database: Path | str, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """An empty store, on each database."""
    if isinstance(database, Path):
        shutil.copy(database, tmp_path / "tidings.db")
        engines = sqlite.create_engines(tmp_path / "tidings.db")
    else:
        engines = postgres.create_engines(database, pool_size=6)
    opened = SqlStore(*engines, FieldCipher(SECRET), KINDS)
    yield opened
    await opened.close()


@pytest.fixture
async def world(any_store: SqlStore, clock: FrozenClock) -> StepWorld:
    """A process, and the user ana."""
    opened = StepWorld(any_store, clock)
    await opened.add_users("ana")
    return opened
