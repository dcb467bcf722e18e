"""`tidings digests list`: output, and rejected arguments."""

import asyncio
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tidings.cli.app import run
from tidings.model.digest import CollectedItem, DigestKey, DigestWindow
from tidings.model.ids import new_id
from tidings.model.user import User
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.store import SqlStore

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def data(upgraded_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with an open digest of each of two users."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(upgraded_database, folder / "tidings.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(folder))
    asyncio.run(open_digests(folder / "tidings.db"))
    return folder


async def open_digests(path: Path) -> None:
    store = SqlStore(*create_engines(path), FieldCipher("a secret for the tests"), {})
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
        items = [
            CollectedItem(
                new_id(NOW),
                DigestKey(user, "MESSAGE", "rule", f"event-{user}"),
                "MESSAGE",
                NOW,
                DigestWindow(NOW + timedelta(hours=1)),
            )
            for user in ("ana", "ben")
        ]
        await store.digests.open(tx, items, NOW)
    await store.close()


def test_digests_are_listed_by_user_key_and_state(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def list_json(*arguments: str) -> list[dict[str, object]]:
        assert run(["digests", "list", *arguments, "--json"]) == 0
        found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
        return found

    newest, oldest = list_json()
    assert [one["userId"] for one in list_json("--before", str(newest["id"]))] == [oldest["userId"]]
    [of_ana] = list_json("--user", "ana")
    assert (of_ana["key"], of_ana["count"], of_ana["state"], of_ana["reason"]) == ("event-ana", 1, "open", None)
    assert [one["userId"] for one in list_json("--key", "event-ben")] == ["ben"]
    assert list_json("--state", "closed") == []
    assert run(["digests", "list", "--limit", "1"]) == 0
    shown = capsys.readouterr()
    assert "tidings digests list --before" in shown.out + shown.err


def test_a_wrong_cursor_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["digests", "list", "--before", "x"]) == 2
    assert "--before" in capsys.readouterr().err
