"""Commands in hints and errors apply to the installation of the call, and can be copied."""

import shlex
from pathlib import Path

import pytest

from tidings.cli import processes
from tidings.cli.app import run
from tidings.cli.options import complete_commands, find_data_folder
from tidings.config.settings import Settings


@pytest.fixture(autouse=True)
def _clean_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("run tidings db upgrade", "run tidings db upgrade --data-dir /srv/a"),
        ("run tidings doctor to check X", "run tidings doctor --data-dir /srv/a to check X"),
        ("A running `tidings serve` sends it", "A running `tidings serve --data-dir /srv/a` sends it"),
        (
            "More: tidings dead-letters list --before 1",
            "More: tidings dead-letters list --data-dir /srv/a --before 1",
        ),
        ("tidings.db and tidings mock-push", "tidings.db and tidings mock-push"),
        ("see tidings keys list", "see tidings keys list --data-dir /srv/a"),
    ],
)
def test_commands_in_a_text_name_the_data_folder(text: str, completed: str) -> None:
    assert complete_commands(text, Path("/srv/a")) == completed
    assert complete_commands(text, None) == text


def test_a_folder_with_a_space_is_quoted() -> None:
    assert shlex.split(complete_commands("tidings doctor", Path("/srv/my data")))[-1] == "/srv/my data"


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["users", "list"], None),
        (["users", "list", "--data-dir", "a"], Path("a")),
        (["--data-dir=a b", "users"], Path("a b")),
        (["users", "--data-dir"], None),
    ],
)
def test_the_data_folder_is_found_among_the_arguments(arguments: list[str], folder: Path | None) -> None:
    assert find_data_folder(arguments) == folder


def test_an_error_names_a_command_for_the_same_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["users", "list", "--data-dir", "mine"]) == 1
    assert f"tidings serve --data-dir {tmp_path / 'mine'}" in capsys.readouterr().err
    assert run(["db", "status", "--data-dir", "mine"]) == 1
    assert f"run tidings db upgrade --data-dir {tmp_path / 'mine'}" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["flag", "environment", "default"])
def test_the_banner_creates_a_key_for_its_own_installation(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" if given == "default" else tmp_path / "mine"
    if given == "environment":
        monkeypatch.setenv("TIDINGS_DATA_DIR", "mine")
    settings = Settings.load(data_dir=Path("mine") if given == "flag" else None)
    processes._print_serve_text(settings)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "tidings keys create" in line]
    command = shlex.split(line.partition(": tidings ")[2])
    monkeypatch.delenv("TIDINGS_DATA_DIR", raising=False)
    if given != "default":
        # another terminal is in another folder
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(command) == 0
    assert (folder / "tidings.db").exists()


def test_the_scaled_setup_speaks_of_api_and_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TIDINGS_DATABASE", "postgresql://tidings@127.0.0.1/tidings")
    folder = tmp_path / "mine"
    processes._print_api_text(Settings.load(data_dir=folder))
    banner = capsys.readouterr().out
    assert f"Start workers with: tidings worker --data-dir {folder}\n" in banner
    assert f"tidings keys create --data-dir {folder} --scope admin\n" in banner
    assert "The command needs the same TIDINGS_DATABASE." in banner


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_send_prints_the_next_command(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if database == "postgresql":
        request.getfixturevalue("monkeypatch").setenv("TIDINGS_DATABASE", request.getfixturevalue("postgres_url"))
    (tmp_path / "users").write_text('{"id": "ana"}\n')
    folder = str(tmp_path / "mine")
    assert run(["users", "import", "users", "--data-dir", folder]) == 0
    capsys.readouterr()
    variables = ["--var", "title=Hello", "--var", "body=You"]
    assert run(["send", "MESSAGE", "--to", "ana", *variables, "--data-dir", folder]) == 0
    printed = capsys.readouterr()
    role = "serve" if database == "sqlite" else "worker"
    assert f"A running `tidings {role} --data-dir {folder}` sends it" in printed.err
    command = shlex.split(printed.err.partition("then: tidings ")[2])
    assert command[-1] == printed.out.strip()
    assert run(command) == 0
