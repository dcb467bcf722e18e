"""`tidings bench accept`: a small run reports every figure, and a database in use is refused."""

from pathlib import Path

import pytest

from tidings.bench.accept import run
from tidings.bench.audience import add_users
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.errors import ConfigError
from tidings.testing.clock import FrozenClock


async def test_a_small_run_reports_every_figure(tmp_path: Path) -> None:
    figures = await run(requests=40, clients=8, recipients=400, folder=tmp_path)
    for singles in (figures.singles, figures.with_key):
        assert singles.requests == 40
        assert singles.per_second > 0
        assert 0 < singles.latency_ms.p50 <= singles.latency_ms.p99
    assert [bulk.recipients for bulk in (figures.named, figures.lines, figures.single_lines)] == [400, 400, 40]
    shown = figures.json_object()
    assert set(shown) == {"clients", "singles", "withKey", "named", "lines", "singleLines", "database", "cores"}
    assert list(tmp_path.iterdir()) == []


async def test_a_database_in_use_is_refused(
    tmp_path: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = f"sqlite:///{tmp_path}/mine.db"
    settings = Settings(data_dir=tmp_path, database=mine, secret_key="a key that wraps what is mine")
    async with AppContainer.open(settings, clock=clock) as runtime:
        await add_users(runtime, 1)
    monkeypatch.setenv("TIDINGS_DATABASE", mine)
    with pytest.raises(ConfigError):
        await run(requests=1, clients=1, recipients=100, folder=tmp_path)
    async with AppContainer.open(settings, clock=clock) as runtime, runtime.store.read_snapshot() as tx:
        assert len(await runtime.store.users.page(tx, after=None, limit=10)) == 1
