"""`tidings recurring`: output, runs, and rejected arguments."""

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
from tidings.model.audience import everyone
from tidings.model.recurring import RecurringNotification

Command = Callable[..., Any]
NO_RUN = "01a221ce-f120-700f-b68b-c0ed35f5cca4"
TEXT = {"title": "Your week", "body": "Nothing new"}


@pytest.fixture
def data(upgraded_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with two recurring notifications, one of them paused."""
    (tmp_path / "data").mkdir()
    shutil.copy(upgraded_database, tmp_path / "data" / "tidings.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path / "data"))

    async def fill() -> None:
        async with AppContainer.open(CliOptions().load_settings()) as runtime:
            for name, zone in (("weekly", "Europe/Berlin"), ("yearly", None)):
                recurring = RecurringNotification(name, "MESSAGE", everyone(), ("MON 09:00",), zone, TEXT)
                await runtime.recurring.put(recurring)
            await runtime.recurring.pause("yearly")

    asyncio.run(fill())
    return tmp_path / "data"


def test_c15_recurring_notifications_are_listed_and_run(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run_json(*arguments: str) -> Any:
        assert run(["recurring", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    weekly, yearly = run_json("list")
    assert (weekly["name"], weekly["timezone"], weekly["isPaused"]) == ("weekly", "Europe/Berlin", False)
    assert (yearly["name"], yearly["timezone"], yearly["nextRunAt"]) == ("yearly", "user", None)
    assert [one["name"] for one in run_json("list", "--after", "weekly")] == ["yearly"]
    assert run_json("runs", "weekly") == run_json("runs") == []
    assert [one["lastRunState"] for one in run_json("list")] == [None, None]
    started = run_json("run", "weekly")
    assert (started["state"], started["isManual"]) == ("pending", True)
    assert run_json("runs", "weekly") == run_json("runs") == [started]
    assert [one["lastRunState"] for one in run_json("list")] == ["pending", None]
    assert run_json("runs", "weekly", "--before", started["id"]) == []
    for arguments, expected in (
        (["list", "--limit", "1"], "More: tidings recurring list --after weekly"),
        (["list"], "paused"),
        (["list"], "pending"),
        (["runs", "weekly"], started["id"]),
        (["runs"], "next attempt"),
        (["runs", "yearly"], "yearly has no runs yet."),
        (["run", "weekly"], "tidings recurring runs weekly"),
    ):
        assert run(["recurring", *arguments]) == 0
        printed = capsys.readouterr()
        assert expected in printed.out + printed.err


def test_c15_a_run_that_was_not_made_is_repeated(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run_json(*arguments: str) -> Any:
        assert run(["recurring", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    async def pause() -> None:
        async with AppContainer.open(CliOptions().load_settings()) as runtime:
            await runtime.recurring.pause("weekly")

    started = run_json("run", "weekly")
    assert run(["recurring", "run", "weekly", "--repeat", started["id"]]) != 0
    assert "The run is pending" in capsys.readouterr().err
    asyncio.run(pause())
    assert [one["state"] for one in run_json("runs", "weekly")] == ["cancelled"]
    repeated = run_json("run", "weekly", "--repeat", started["id"])
    assert (repeated["id"], repeated["state"]) == (started["id"], "pending")
    assert run_json("runs") == [repeated]


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "none"],
        ["run", "none"],
        ["runs", "weekly", "--before", "x"],
        ["runs", "--before", NO_RUN],
        ["run", "weekly", "--repeat", NO_RUN],
    ],
)
def test_c15_unknown_names_and_runs_are_errors(
    data: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recurring", *arguments]) in (1, 2)
    assert "error:" in capsys.readouterr().err
