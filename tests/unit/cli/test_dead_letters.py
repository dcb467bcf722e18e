"""`tidings dead-letters`: output, confirmation and rejected arguments."""

import asyncio
import io
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tidings.cli.app import run
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.store import SqlStore
from tidings.testing.contracts.dead_letters_contract import FORBIDDEN, TOO_LARGE, create_dead_letters

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def _letters(upgraded_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with three dead letters, the newest of which is `too large`."""
    path = tmp_path_factory.mktemp("letters") / "tidings.db"
    shutil.copy(upgraded_database, path)

    async def die() -> None:
        store = SqlStore(*create_engines(path), FieldCipher("a secret for the tests"), {})
        await create_dead_letters(store, "ana", "ben")
        await create_dead_letters(store, "cleo", outcome=TOO_LARGE)
        await store.close()

    asyncio.run(die())
    with closing(sqlite3.connect(path)) as database, database:
        # the samples have a fixed time, the command uses the current time
        database.execute("UPDATE notifications SET expires_at = '2999-01-01T00:00:00.000000+00:00'")
    return path


@pytest.fixture
def data(_letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    shutil.copy(_letters, tmp_path / "data" / "tidings.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "tidings.db"


@pytest.fixture
def run_json(data: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command and return its JSON."""

    def call(*arguments: str) -> Any:
        assert run(["dead-letters", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def states(data: Path) -> dict[str, str]:
    with closing(sqlite3.connect(data)) as database:
        return dict(database.execute("SELECT user_id, state FROM deliveries"))


ALL_DEAD = {"ana": "refused", "ben": "refused", "cleo": "refused"}


class Terminal(io.StringIO):
    """A terminal with typed input."""

    def isatty(self) -> bool:
        return True


def test_the_list_is_json_newest_first(run_json: Command) -> None:
    listed = run_json("list")
    assert [one["userId"] for one in listed] == ["cleo", "ben", "ana"]
    assert (listed[0]["error"], listed[0]["status"]) == (TOO_LARGE.why, 413)
    assert [one["userId"] for one in run_json("list", "--error", FORBIDDEN.why)] == ["ben", "ana"]
    assert [one["userId"] for one in run_json("list", "--user", "ana", "--template", "NEWS")] == ["ana"]
    assert run_json("list", "--since", "2999-01-01T00:00:00Z") == []
    assert [(one["error"], one["count"]) for one in run_json("errors")] == [(FORBIDDEN.why, 2), (TOO_LARGE.why, 1)]


def test_the_text_list_shows_how_to_get_the_next_page(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dead-letters", "list", "--limit", "2"]) == 0
    printed = capsys.readouterr()
    before = printed.err.partition("--before ")[2].strip()
    assert before in printed.out
    assert run(["dead-letters", "list", "--limit", "2", "--before", before]) == 0
    rest = capsys.readouterr()
    assert "ana" in rest.out
    assert "ben" not in rest.out
    assert rest.err == ""


def test_replayed_dead_letters_are_due_at_the_rate(run_json: Command, data: Path) -> None:
    preview = run_json("replay", "--all", "--dry-run", "--rate", "0.1")
    assert (preview["matching"], preview["replayable"]) == (3, 3)
    assert states(data) == ALL_DEAD
    done = run_json("replay", "--all", "--yes", "--rate", "0.1", "--limit", "2")
    assert (done["replayed"], done["expired"], done["cancelled"]) == (2, 0, 0)
    assert states(data) == {"ana": "refused", "ben": "pending", "cleo": "pending"}
    with closing(sqlite3.connect(data)) as database:
        query = (
            "SELECT (julianday(max(due_at)) - julianday(min(due_at))) * 86400 FROM deliveries WHERE state = 'pending'"
        )
        [(seconds,)] = database.execute(query).fetchall()
    assert seconds == pytest.approx(10, abs=0.01)


def test_discarded_dead_letters_are_not_listed(run_json: Command, data: Path) -> None:
    ids = [one["id"] for one in run_json("list")]
    assert run_json("discard", "--id", ids[0], "--id", ids[2], "--yes") == {"discarded": 2, "unknownIds": []}
    assert states(data) == {"ana": "discarded", "ben": "refused", "cleo": "discarded"}


def test_listing_everything_needs_no_filter(run_json: Command, data: Path) -> None:
    assert run_json("replay", "--dry-run")["matching"] == run_json("discard", "--dry-run")["matching"] == 3
    assert states(data) == ALL_DEAD


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "--user", "ana"], "--yes: is required to replay 1 dead letters"),
        (["discard", "--all", "--limit", "2"], "--yes: is required to discard 2 of 3 dead letters"),
        (["replay", "--yes"], "--all: is required to select every dead letter"),
        (["discard", "--all", "--user", "ana", "--yes"], "--all: cannot be combined with a filter"),
        (["list", "--since", "yesterday"], "--since: must be a date and time"),
        (["list", "--before", "nonsense"], "--before: must be the id of a dead letter"),
        (["replay", "--all", "--rate", "0", "--yes"], "--rate"),
        (["discard", "--all", "--limit", "0", "--yes"], "--limit"),
    ],
)
def test_a_bulk_action_needs_a_filter_and_a_confirmation(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["dead-letters", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert states(data) == ALL_DEAD


@pytest.mark.parametrize(("typed", "code", "left"), [("y\n", 0, 0), ("n\n", 2, 3), ("\n", 2, 3), ("", 2, 3)])
def test_a_user_at_a_terminal_is_asked_for_confirmation(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, code: int, left: int
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert run(["dead-letters", "discard", "--all"]) == code
    assert "Discard 3 dead letters? [y/N]" in capsys.readouterr().err
    assert list(states(data).values()).count("refused") == left


def test_a_folder_without_a_database_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path / "nowhere"))
    assert run(["dead-letters", "list"]) == 1
    assert "there is no database" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
