"""`tidings audiences`: output, and rejected arguments."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidings.cli.app import run
from tidings.cli.options import CliOptions
from tidings.container import AppContainer
from tidings.model.audience import city, saved
from tidings.model.saved_audience import SavedAudience
from tidings.model.user import User

Command = Callable[..., Any]


@pytest.fixture
def data(upgraded_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a user of Basel and two saved audiences."""
    (tmp_path / "data").mkdir()
    shutil.copy(upgraded_database, tmp_path / "data" / "tidings.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path / "data"))

    async def fill() -> None:
        async with AppContainer.open(CliOptions().load_settings()) as runtime, runtime.store.transaction() as tx:
            await runtime.store.users.upsert(tx, [User("ana", city="Basel")], runtime.clock.now())
            await runtime.audiences.put(tx, SavedAudience("basel", city("Basel"), "At home"))
            await runtime.audiences.put(tx, SavedAudience("others", ~saved("basel")))

    asyncio.run(fill())
    return tmp_path / "data"


@pytest.fixture
def run_json(data: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command and return its JSON."""

    def call(*arguments: str) -> Any:
        assert run(["audiences", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_audiences_are_listed_shown_and_estimated(run_json: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert [(one["name"], one["description"]) for one in run_json("list")] == [("basel", "At home"), ("others", "")]
    assert [one["name"] for one in run_json("list", "--after", "basel")] == ["others"]
    assert run_json("show", "others")["definition"] == {"not": {"kind": "saved", "name": "basel"}}
    assert run_json("estimate", "others")["size"] == 0
    estimate = run_json("estimate", "basel", "--channel", "webpush")
    assert (estimate["size"], estimate["channels"]) == (1, {"webpush": {"reachable": 0, "excluded": {"no_device": 1}}})
    described = json.dumps({"kind": "city", "city": "Basel"})
    assert run_json("estimate", "--audience", described)["sample"] == ["ana"]
    for command in (["list"], ["show", "basel"], ["estimate", "basel"]):
        assert run(["audiences", *command]) == 0
    printed = capsys.readouterr().out
    for text in ("At home", '"city": "Basel"', "1 users; of 1 examined", "1 no_device"):
        assert text in printed


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["estimate"], "give the name of a saved audience, or --audience with JSON"),
        (["estimate", "basel", "--audience", "{}"], "or --audience"),
        (["estimate", "--audience", "{"], "--audience: is not JSON"),
        (["estimate", "--audience", '{"or": []}'], "audience.or"),
        (["estimate", "nobody"], "No saved audience 'nobody'"),
        (["show", "nobody"], "No saved audience 'nobody'"),
        (["estimate", "basel", "--category", "NOPE"], "is not a known category"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audiences", *arguments]) != 0
    assert message in capsys.readouterr().err
