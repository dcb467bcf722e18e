"""`tidings bench accept`: a small run comes to its end with every figure, and never on a database that is in use."""

from pathlib import Path

import pytest

from tidings.bench.accept import run
from tidings.bench.people import add_users
from tidings.errors import ConfigError
from tidings.runtime import Runtime
from tidings.settings import Settings
from tidings.testing.clock import FrozenClock


async def test_a_small_run_measures_everything(tmp_path: Path) -> None:
    figures = await run(requests=40, clients=8, recipients=400, folder=tmp_path)
    for singles in (figures.singles, figures.with_key):
        assert singles.requests == 40
        assert singles.per_second > 0
        assert 0 < singles.latency_ms.p50 <= singles.latency_ms.p99
    assert [bulk.recipients for bulk in (figures.named, figures.lines, figures.single_lines)] == [400, 400, 40]
    shown = figures.json_object()
    assert set(shown) == {"clients", "singles", "withKey", "named", "lines", "singleLines", "database", "cores"}
    assert list(tmp_path.iterdir()) == []


async def test_a_database_in_use_is_left_alone(
    tmp_path: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = f"sqlite:///{tmp_path}/mine.db"
    settings = Settings(data_dir=tmp_path, database=mine, secret_key="a key that wraps what is mine")
    async with Runtime.open(settings, clock=clock) as runtime:
        await add_users(runtime, 1)
    monkeypatch.setenv("TIDINGS_DATABASE", mine)
    with pytest.raises(ConfigError):
        await run(requests=1, clients=1, recipients=100, folder=tmp_path)
    async with Runtime.open(settings, clock=clock) as runtime, runtime.store.read() as tx:
        assert len(await runtime.store.users.page(tx, after=None, limit=10)) == 1
