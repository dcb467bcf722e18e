"""`tidings dead-letters` on a database with some: what is shown, what is asked, what is refused."""

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
from tidings.stores.sealing import Sealer
from tidings.stores.sqlite import engines
from tidings.stores.store import SqlStore
from tidings.testing.contracts.dead_letters_contract import FORBIDDEN, TOO_LARGE, dead_scene

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def _letters(upgraded_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with three dead letters, the newest of which is `too large`."""
    path = tmp_path_factory.mktemp("letters") / "tidings.db"
    shutil.copy(upgraded_database, path)

    async def die() -> None:
        store = SqlStore(*engines(path), Sealer("a secret for the tests"), {})
        await dead_scene(store, "ana", "ben")
        await dead_scene(store, "cleo", outcome=TOO_LARGE)
        await store.close()

    asyncio.run(die())
    with closing(sqlite3.connect(path)) as database, database:
        # the samples live in their own time, the command in today's
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
def answer(data: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command and return its JSON."""

    def answered(*arguments: str) -> Any:
        assert run(["dead-letters", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return answered


def states(data: Path) -> dict[str, str]:
    with closing(sqlite3.connect(data)) as database:
        return dict(database.execute("SELECT user_id, state FROM deliveries"))


ALL_DEAD = {"ana": "refused", "ben": "refused", "cleo": "refused"}


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def test_the_list_is_json_newest_first(answer: Command) -> None:
    listed = answer("list")
    assert [one["userId"] for one in listed] == ["cleo", "ben", "ana"]
    assert (listed[0]["error"], listed[0]["status"]) == (TOO_LARGE.why, 413)
    assert [one["userId"] for one in answer("list", "--error", FORBIDDEN.why)] == ["ben", "ana"]
    assert [one["userId"] for one in answer("list", "--user", "ana", "--template", "NEWS")] == ["ana"]
    assert answer("list", "--since", "2999-01-01T00:00:00Z") == []
    assert [(one["error"], one["count"]) for one in answer("errors")] == [(FORBIDDEN.why, 2), (TOO_LARGE.why, 1)]


def test_the_list_for_people_says_how_it_goes_on(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dead-letters", "list", "--limit", "2"]) == 0
    printed = capsys.readouterr()
    before = printed.err.partition("--before ")[2].strip()
    assert before in printed.out
    assert run(["dead-letters", "list", "--limit", "2", "--before", before]) == 0
    rest = capsys.readouterr()
    assert "ana" in rest.out
    assert "ben" not in rest.out
    assert rest.err == ""


def test_what_is_replayed_comes_due_at_the_rate(answer: Command, data: Path) -> None:
    found = answer("replay", "--all", "--dry-run", "--rate", "0.1")
    assert (found["matching"], found["replayable"]) == (3, 3)
    assert states(data) == ALL_DEAD
    done = answer("replay", "--all", "--yes", "--rate", "0.1", "--limit", "2")
    assert (done["replayed"], done["expired"], done["cancelled"]) == (2, 0, 0)
    assert states(data) == {"ana": "refused", "ben": "pending", "cleo": "pending"}
    with closing(sqlite3.connect(data)) as database:
        query = (
            "SELECT (julianday(max(due_at)) - julianday(min(due_at))) * 86400 FROM deliveries WHERE state = 'pending'"
        )
        [(seconds,)] = database.execute(query).fetchall()
    assert seconds == pytest.approx(10, abs=0.01)


def test_what_is_discarded_is_off_the_list(answer: Command, data: Path) -> None:
    ids = [one["id"] for one in answer("list")]
    assert answer("discard", "--id", ids[0], "--id", ids[2], "--yes") == {"discarded": 2, "unknownIds": []}
    assert states(data) == {"ana": "discarded", "ben": "refused", "cleo": "discarded"}


def test_to_look_at_everything_needs_no_filter(answer: Command, data: Path) -> None:
    assert answer("replay", "--dry-run")["matching"] == answer("discard", "--dry-run")["matching"] == 3
    assert states(data) == ALL_DEAD


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "--user", "ana"], "--yes: replay 1 dead letters?"),
        (["discard", "--all", "--limit", "2"], "--yes: discard 2 of 3 dead letters?"),
        (["replay", "--yes"], "--all: say it to mean every dead letter"),
        (["discard", "--all", "--user", "ana", "--yes"], "--all: means every dead letter"),
        (["list", "--since", "yesterday"], "--since: must be a date and time"),
        (["list", "--before", "nonsense"], "--before: must be the id of a dead letter"),
        (["replay", "--all", "--rate", "0", "--yes"], "--rate"),
        (["discard", "--all", "--limit", "0", "--yes"], "--limit"),
    ],
)
def test_nothing_is_done_by_mistake(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(["dead-letters", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert states(data) == ALL_DEAD


@pytest.mark.parametrize(("typed", "code", "left"), [("y\n", 0, 0), ("n\n", 2, 3), ("\n", 2, 3), ("", 2, 3)])
def test_whoever_sits_there_is_asked(
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
