"""`tidings suppressions`: output, and rejected arguments."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidings.cli.app import run

Command = Callable[..., Any]


@pytest.fixture
def data(upgraded_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    shutil.copy(upgraded_database, tmp_path / "data" / "tidings.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def run_json(data: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command and return its JSON."""

    def call(*arguments: str) -> Any:
        assert run(["suppressions", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_c56_a_suppression_is_added_listed_and_lifted(run_json: Command, capsys: pytest.CaptureFixture[str]) -> None:
    added = run_json("add", "email", "Ana@EXAMPLE.org", "--category", "MESSAGE")
    assert (added["address"], added["reason"], added["category"], added["source"]) == (
        "Ana@example.org",
        "manual",
        "MESSAGE",
        "cli",
    )
    assert added["author"].startswith("cli:")
    assert [one["id"] for one in run_json("list", "--channel", "email", "--address", "ana@example.org")] == [
        added["id"]
    ]
    assert run_json("list", "--channel", "sms") == []
    assert run(["suppressions", "list"]) == 0
    assert "Ana@example.org" in capsys.readouterr().out
    lifted = run_json("remove", added["id"], "--reason", "it was a mistake")
    assert (lifted["liftReason"], lifted["liftedBy"]) == ("it was a mistake", added["author"])
    assert run_json("list") == []
    assert [one["id"] for one in run_json("list", "--ended")] == [added["id"]]
    assert run(["suppressions", "list"]) == 0
    assert "No address is suppressed." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--address", "ana@example.org"], "--channel: is required with --address"),
        (["list", "--before", "7"], "--before: must be the id of a suppression"),
        (["add", "pigeon", "ana@example.org"], "'pigeon' is not an installed channel"),
        (["add", "email", "ana"], "must be an e-mail address"),
        (["add", "email", "ana@example.org", "--category", "NOPE"], "'NOPE' is not a known category"),
        (["remove", "7", "--reason", "  "], "--reason: must say why"),
        (["remove", "7", "--reason", "mistake"], "There is no suppression with this id"),
    ],
)
def test_a_wrong_argument_is_named(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["suppressions", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_c67_an_opt_out_with_the_provider_is_not_lifted_by_hand(
    run_json: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    added = run_json("add", "sms", "+16502530000", "--reason", "provider_opt_out")
    assert run(["suppressions", "remove", added["id"], "--reason", "mistake"]) == 1
    assert "until its owner answers START" in capsys.readouterr().err
