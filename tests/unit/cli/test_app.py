"""The command line starts fast, reports errors in one line, and returns the right exit code."""

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import structs

from tidings.cli import doctor_servers
from tidings.cli.app import COMMANDS, run
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.model.alert import Alert, AlertName
from tidings.testing.valkey import ValkeyServer


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path / "data"))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in printed] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command in ("mock-push", "mock-mail"):  # they have their own parsers
        with pytest.raises(SystemExit, match="0"):
            run([command, "--help"])
    else:
        assert run([command, "--help"]) == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tidings.cli.app import run; run(['--help']);"
        "print([m for m in ('sqlalchemy', 'fastapi', 'uvicorn', 'pyreqwest', 'babel', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["keys", "create"], ["keys", "create", "--scope", "root"], ["serve", "--port", "x"], ["--what"]],
)
def test_a_wrong_call_is_one_line_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


def test_a_wrong_call_names_the_help_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "create"]) == 2
    assert capsys.readouterr().err.endswith("; see tidings keys create --help\n")


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_list_has_at_least_one_row(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["users", "list", "--limit", limit]) == 2
    assert "--limit" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["users", "list"],
        ["users", "show", "ana"],
        ["keys", "list"],
        ["keys", "revoke", "x"],
        ["explain", "--user", "ana", "--notification", "x"],
        ["vapid", "show"],
        ["vapid", "rotate"],
    ],
)
def test_reading_a_missing_database_is_reported_and_creates_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 1
    assert capsys.readouterr().err.startswith(f"error: there is no database at {tmp_path / 'data'}")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("arguments", [["users", "list"], ["serve", "--port", "0"], ["db", "status"]])
def test_a_damaged_database_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tidings.db").write_bytes(b"no database at all" * 100)
    assert run(arguments) == 1
    output = capsys.readouterr().err
    last = output.splitlines()[-1]
    assert last == "error: the database cannot be used: file is not a database; run tidings doctor to find the cause"
    assert "Traceback" not in output


@pytest.mark.parametrize(("level", "shown"), [("info", False), ("debug", True)])
def test_an_unexpected_error_is_one_line_and_its_traceback_is_optional(
    level: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setenv("TIDINGS_LOG_LEVEL", level)
    monkeypatch.setattr("tidings.stores.schema.version.read_status", fail)
    assert run(["db", "upgrade"]) == 1
    printed = capsys.readouterr().err
    assert printed.splitlines()[-1].startswith("error: ZeroDivisionError: division by zero; ")
    assert ("Traceback" in printed) is shown


def test_help_of_the_mock_push_service_shows_how_to_control_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["mock-push", "--help"])
    assert "/control/behaviour" in capsys.readouterr().out


def test_a_wrong_setting_names_itself_and_is_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDINGS_REDIS", "localhost:6379")
    assert run(["db", "status"]) == 2
    fix = (
        "error: TIDINGS_REDIS: must be a redis://, rediss:// or unix:// URL, such as redis://host:6379/0; or unset it\n"
    )
    assert capsys.readouterr().err == fix


def test_a_database_is_created_and_reported_as_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["db", "status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["current"] is None
    assert run(["db", "upgrade", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["from"] is None
    assert run(["db", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["upToDate"] is True


def test_db_status_does_not_create_a_database(tmp_path: Path) -> None:
    assert run(["db", "status"]) == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["api", "worker"])
def test_one_of_several_processes_needs_a_database_for_several(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: TIDINGS_DATABASE: is SQLite, which supports one server process")
    assert "run tidings serve, or set it to postgresql://" in printed
    assert not (tmp_path / "data").exists()


def test_doctor_shows_settings_with_their_origin_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDINGS_SECRET_KEY", "canary-canary-canary-canary-canary")
    monkeypatch.setenv("TIDINGS_PROT", "9000")
    assert run(["doctor", "--json"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed)
    assert "canary" not in printed
    assert {"name": "TIDINGS_SECRET_KEY", "value": "**********", "origin": "environment"} in report["settings"]
    assert "TIDINGS_PROT" in {finding["check"] for finding in report["checks"] if finding["level"] == "warning"}


def test_doctor_finds_a_secret_that_no_server_starts_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDINGS_SECRET_KEY", "short")
    assert run(["doctor"]) == 1


def test_doctor_finds_a_limit_that_no_server_starts_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDINGS_CATEGORY_LIMITS", "MESAGE=5")
    assert run(["doctor", "--json"]) == 1
    problems = {
        f["check"]: f["message"] for f in json.loads(capsys.readouterr().out)["checks"] if f["level"] == "problem"
    }
    assert problems == {"TIDINGS_CATEGORY_LIMITS": "no category 'MESAGE'; did you mean 'MESSAGE'?"}
    monkeypatch.setenv("TIDINGS_CATEGORY_LIMITS", "MESSAGE=5")
    assert run(["doctor"]) == 0


def test_doctor_prints_tables_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    assert "TIDINGS_DATA_DIR" in capsys.readouterr().out


def test_doctor_finds_a_damaged_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tidings.db").write_bytes(b"no database at all" * 100)
    assert run(["doctor", "--json"]) == 1
    problems = [f for f in json.loads(capsys.readouterr().out)["checks"] if f["level"] == "problem"]
    assert [problem["check"] for problem in problems] == ["database"]


async def store_alert(alert: Alert) -> None:
    async with AppContainer.open(Settings.load()) as container, container.store.transaction() as tx:
        await container.store.alerts.save(tx, [alert])


REFUSED = Alert(
    AlertName.PUSH_TOKEN_REFUSED,
    "https://push.example",
    "the clock of host-1 is 25 h 0 min ahead of that of https://push.example",
    datetime(2026, 11, 22, tzinfo=UTC),
    datetime(2026, 11, 22, tzinfo=UTC),
)


def test_doctor_reports_the_alerts_that_are_raised(capsys: pytest.CaptureFixture[str]) -> None:
    ended = structs.replace(REFUSED, subject="https://other.example", ends_at=REFUSED.since)
    for alert in (REFUSED, ended):
        asyncio.run(store_alert(alert))
    assert run(["doctor", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    problems = {check["check"]: check["message"] for check in checks if check["level"] == "problem"}
    assert list(problems) == ["push_token_refused"]
    assert "https://push.example" in problems["push_token_refused"]
    assert "25 h 0 min ahead" in problems["push_token_refused"]


def test_doctor_reports_alerts_on_postgresql(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDINGS_DATABASE", postgres_url)
    asyncio.run(store_alert(REFUSED))
    assert run(["doctor", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert "push_token_refused" in {check["check"] for check in checks if check["level"] == "problem"}
    assert "clock" not in {check["check"] for check in checks}


def test_doctor_finds_backends_that_do_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDINGS_DATABASE", "postgresql://tidings:canary@127.0.0.1:1/tidings")
    monkeypatch.setenv("TIDINGS_REDIS", "redis://:canary@127.0.0.1:1/0")
    assert run(["doctor", "--json"]) == 1
    printed = capsys.readouterr().out
    assert "canary" not in printed
    problems = {f["check"]: f["message"] for f in json.loads(printed)["checks"] if f["level"] == "problem"}
    assert "TIDINGS_DATABASE" in problems["database"]
    assert "TIDINGS_REDIS" in problems["redis"]
    assert run(["users", "list"]) == 1
    error = capsys.readouterr().err
    assert "run tidings doctor to check TIDINGS_DATABASE" in error
    assert "canary" not in error


def test_doctor_reports_an_invalid_redis_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDINGS_REDIS", "redis://127.0.0.1:1/0?socket_timeout=5")
    assert run(["doctor", "--json"]) == 1
    problems = {f["check"]: f["message"] for f in json.loads(capsys.readouterr().out)["checks"]}
    assert problems["redis"].startswith("TIDINGS_REDIS: sets socket_timeout, which")


def test_doctor_distinguishes_a_hanging_redis_from_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_servers, "CHECK_TIMEOUT", 0.2)
    with ValkeyServer() as valkey:
        monkeypatch.setenv("TIDINGS_REDIS", valkey.url)
        valkey.pause()
        assert run(["doctor", "--json"]) == 1
        valkey.resume()
    problems = {f["check"]: f["message"] for f in json.loads(capsys.readouterr().out)["checks"]}
    assert "no response within 0.2 s: Redis hangs" in problems["redis"]


def test_doctor_passes_with_working_backends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], postgres_url: str
) -> None:
    with ValkeyServer(append_only=True) as valkey:
        monkeypatch.setenv("TIDINGS_DATABASE", postgres_url)
        monkeypatch.setenv("TIDINGS_REDIS", valkey.url)
        monkeypatch.setenv("TIDINGS_SECRET_KEY", "a secret key for tests, long enough to be good")
        assert run(["db", "upgrade"]) == 0
        capsys.readouterr()
        assert run(["doctor", "--json"]) == 0
        found = [f for f in json.loads(capsys.readouterr().out)["checks"] if f["check"] in ("database", "redis")]
        assert {f["level"] for f in found} == {"ok"}, found
        assert any("PostgreSQL 1" in f["message"] for f in found)


def test_doctor_warns_about_a_redis_that_evicts_or_does_not_persist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ValkeyServer() as valkey:
        valkey.send_command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        monkeypatch.setenv("TIDINGS_REDIS", valkey.url)
        assert run(["doctor", "--json"]) == 1
        found = {(f["level"], f["message"]) for f in json.loads(capsys.readouterr().out)["checks"]}
        assert any(level == "problem" and "maxmemory-policy noeviction" in message for level, message in found)
        assert any(level == "warning" and "appendonly yes" in message for level, message in found)


def test_doctor_finds_secrets_that_others_may_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = tmp_path / "data" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "secret_key").write_text("s" * 40)
    (secrets / "secret_key").chmod(0o644)
    assert run(["doctor"]) == 1
    assert "chmod 600" in capsys.readouterr().out
