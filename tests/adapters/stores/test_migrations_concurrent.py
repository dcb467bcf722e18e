"""Concurrent migrations: several processes start at once on an empty database, and all succeed."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event

from tidings.errors import BackendError
from tidings.stores.schema import migrate
from tidings.testing.postgres import PostgresServer

PROCESS_COUNT = 4


async def _tidings(environment: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tidings.cli",
        *arguments,
        env=os.environ | dict(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


@pytest.fixture(params=["sqlite", "postgresql"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """The environment of a process with an empty database."""
    if request.param == "sqlite":
        return {"TIDINGS_DATA_DIR": str(tmp_path)}
    return {"TIDINGS_DATA_DIR": str(tmp_path), "TIDINGS_DATABASE": request.getfixturevalue("postgres_url")}


async def test_processes_that_start_at_once_all_succeed(environment: Mapping[str, str]) -> None:
    results = await asyncio.gather(*(_tidings(environment, "db", "upgrade", "--json") for _ in range(PROCESS_COUNT)))
    assert [code for code, _, _ in results] == [0] * PROCESS_COUNT, results
    heads = {json.loads(out)["to"] for _, out, _ in results}
    assert len(heads) == 1
    code, out, _ = await _tidings(environment, "db", "status", "--json")
    assert code == 0
    assert json.loads(out)["upToDate"] is True


async def test_a_downgrade_requires_a_confirmation(environment: Mapping[str, str]) -> None:
    await _tidings(environment, "db", "upgrade")
    code, _, errors = await _tidings(environment, "db", "downgrade", "0002")
    assert code == 2
    assert "stop every server and add --yes" in errors
    code, out, errors = await _tidings(environment, "db", "downgrade", "0002", "--yes", "--json")
    assert code == 0, errors
    assert json.loads(out)["to"] == "0002"
    assert (await _tidings(environment, "db", "status"))[0] == 1


async def test_an_unreachable_server_is_reported_in_one_line(tmp_path: Path) -> None:
    unreachable = {"TIDINGS_DATA_DIR": str(tmp_path), "TIDINGS_DATABASE": "postgresql://ana:secret@127.0.0.1:1/tidings"}
    code, _, errors = await _tidings(unreachable, "db", "status")
    assert code == 1
    assert errors.startswith("error: the database does not answer")
    assert "secret" not in errors


async def test_the_password_is_never_shown(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    url = postgres_url.replace("postgres@", "postgres:secret@")
    code, out, errors = await _tidings({"TIDINGS_DATA_DIR": str(tmp_path), "TIDINGS_DATABASE": url}, "db", "upgrade")
    assert code == 0, errors
    assert "secret" not in out
    assert out.startswith(f"postgresql://127.0.0.1:{postgres.port}/")


def test_a_locked_sqlite_database_is_reported_as_such(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tidings.db'}"
    busy = create_engine(url, connect_args={"isolation_level": None})
    pending = create_engine(url, connect_args={"isolation_level": None, "timeout": 0.1})
    event.listen(pending, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with busy.connect() as other, pending.connect() as connection:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(BackendError, match="another process is writing to the database"):
            migrate.downgrade(connection, "base")
        other.exec_driver_sql("ROLLBACK")
    busy.dispose()
    pending.dispose()
