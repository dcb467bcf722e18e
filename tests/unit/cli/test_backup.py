"""`tidings db backup` copies a SQLite database in use, and names pg_dump for PostgreSQL."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tidings.cli.app import run


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgraded_database: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tidings.db").write_bytes(upgraded_database.read_bytes())
    return tmp_path / "data" / "tidings.db"


@contextmanager
def write_without_pause(database: Path) -> Iterator[list[int]]:
    """Let another connection commit one row after the other during the block; yield their numbers."""
    stop, written = threading.Event(), list[int]()

    def write() -> None:
        with closing(sqlite3.connect(database, timeout=10, isolation_level=None)) as connection:
            while not stop.is_set():
                number = len(written)
                connection.execute("INSERT INTO facts (name, value) VALUES (?, ?)", (f"fact-{number}", "x" * 2000))
                written.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while not written and thread.is_alive():
            pass
        yield written
    finally:
        stop.set()
        thread.join()


def test_a_database_in_use_is_copied_completely(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
    with write_without_pause(database) as written:
        before = len(written)
        assert run(["db", "backup", "copy.db", "--json"]) == 0
        while len(written) == before:
            pass
    report = json.loads(capsys.readouterr().out)
    copy = tmp_path / "copy.db"
    assert report == {"database": str(database), "backup": str(copy), "bytes": copy.stat().st_size}
    assert copy.stat().st_mode & 0o077 == 0, "endpoints are encrypted, names and addresses are not"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        names = [name for (name,) in connection.execute("SELECT name FROM facts WHERE name LIKE 'fact-%'")]
    assert len(names) >= before
    assert set(names) == {f"fact-{number}" for number in range(len(names))}, "a consistent prefix of the commits"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "data"]


def test_a_restored_copy_is_a_working_database(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["db", "upgrade"]) == 0, "the tables of packs"
    assert run(["db", "backup", "copy.db"]) == 0
    (database.parent / "tidings.db").write_bytes(Path("copy.db").read_bytes())
    assert run(["db", "status"]) == 0
    assert run(["users", "list"]) == 0
    assert "No users." in capsys.readouterr().out


def test_an_existing_file_is_kept(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert database.exists()
    Path("copy.db").write_text("precious")
    assert run(["db", "backup", "copy.db"]) == 2
    assert Path("copy.db").read_text() == "precious"
    assert "copy.db exists; name a new file" in capsys.readouterr().err


def test_a_missing_folder_or_database_is_one_line(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["db", "backup", "nowhere/copy.db"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err
    database.unlink()
    assert run(["db", "backup", "copy.db"]) == 1
    assert "there is no database at" in capsys.readouterr().err
    assert not (tmp_path / "copy.db").exists()


def test_for_postgresql_pg_dump_is_named_without_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDINGS_DATABASE", "postgresql://ana:canary@db.example:6432/shop?pgbouncer=true&jit=on")
    assert run(["db", "backup", "my copy.dump"]) == 2
    printed = capsys.readouterr().err
    assert "pg_dump --format=custom --file='my copy.dump' postgresql://ana@db.example:6432/shop\n" in printed
    assert "canary" not in printed
