"""The command line end to end: a running server, separate processes, one data folder."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import structlog

from tidings.cli.app import run

CONSOLE = [sys.executable, "-m", "tidings.cli"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    return clean | {"TIDINGS_DATA_DIR": str(tmp_path / "data")}


def process(environment: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Start a command as a process."""
    return subprocess.run(
        [*CONSOLE, *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
    )


def tidings(environment: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which takes a tenth of the time of a new process."""
    out, err, root, logging_config = StringIO(), StringIO(), logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(os, "environ", environment)
        patch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin.encode())))
        # cached loggers would keep writing to this command's stderr
        patch.setattr(structlog, "configure", partial(_configured, structlog.configure))
        code = run(list(arguments))
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**logging_config)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def _configured(configure: Callable[..., None], **options: Any) -> None:
    configure(**options | {"cache_logger_on_first_use": False})


def answer(environment: dict[str, str], *arguments: str, stdin: str = "") -> Any:
    done = tidings(environment, *arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def start_server(environment: dict[str, str], *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run a server on a free port, and wait for the line that it prints once it accepts requests."""
    with subprocess.Popen(
        [*CONSOLE, "serve", "--port", "0", "--json", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        line = server.stdout.readline()
        assert line, server.stderr.read()
        try:
            yield server, json.loads(line)
        finally:
            server.terminate()
            server.communicate(timeout=30)


def call(url: str, key: str, method: str = "GET", body: object = None) -> Any:
    request = Request(
        url, method=method, headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    )
    with urlopen(request, None if body is None else json.dumps(body).encode(), timeout=10) as response:
        return json.loads(response.read() or "null")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_shuts_down_gracefully(environment: dict[str, str], number: signal.Signals) -> None:
    with start_server(environment) as (server, places):
        with urlopen(places["url"] + "/health/live", timeout=10) as response:
            assert response.status == 200
        server.send_signal(number)
        assert server.wait(timeout=30) == 0


def test_two_servers_on_one_database_are_refused(environment: dict[str, str]) -> None:
    with start_server(environment) as (server, _):
        second = process(environment, "serve", "--port", "0")
    assert second.returncode == 2
    assert f"error: TIDINGS_DATA_DIR: another tidings serve (process {server.pid})" in second.stderr


def test_a_port_in_use_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    with start_server(environment) as (_, places):
        port = places["url"].rpartition(":")[2]
        second = process(environment, "serve", "--port", port, "--data-dir", str(tmp_path / "other"))
    assert second.returncode == 2
    assert f"error: TIDINGS_PORT: cannot listen on 127.0.0.1 port {port}" in second.stderr
    assert "choose another with --port or TIDINGS_PORT" in second.stderr


def test_a_key_created_while_the_server_runs_works_until_it_is_revoked(environment: dict[str, str]) -> None:
    with start_server(environment) as (_, places):
        created = answer(environment, "keys", "create", "--scope", "read", "--scope", "notify", "--label", "shop")
        assert call(places["url"] + "/api/templates", created["key"])["items"]
    listed = answer(environment, "keys", "list")
    assert [(key["id"], key["label"], key["scopes"]) for key in listed] == [(created["id"], "shop", ["notify", "read"])]
    assert created["key"] not in json.dumps(listed)
    assert answer(environment, "keys", "revoke", created["id"]) == {"id": created["id"], "revoked": True}
    again = tidings(environment, "keys", "revoke", created["id"])
    assert again.returncode == 1
    assert again.stderr.startswith("error: there is no active key")


def test_a_key_can_be_captured_by_a_shell(environment: dict[str, str]) -> None:
    created = process(environment, "keys", "create", "--scope", "admin")
    assert re.fullmatch(r"tdg_\w+\n", created.stdout)
    assert "not shown again" in created.stderr


def test_users_are_imported_line_by_line(environment: dict[str, str]) -> None:
    lines = (
        '{"id": "ana", "locale": "de-CH", "timezone": "Europe/Zurich"}\n\nnonsense\n{"id": "bo", "locale": "xx-!"}\n'
    )
    done = process(environment, "users", "import", "-", "--json", stdin=lines)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["new"], report["changed"], [fault["line"] for fault in report["refused"]]) == (1, 0, [3, 4])
    assert [user["id"] for user in answer(environment, "users", "list")] == ["ana"]
    assert answer(environment, "users", "show", "ana")["timezone"] == "Europe/Zurich"
    assert tidings(environment, "users", "show", "bo").returncode == 1


def test_a_sent_message_is_explained(environment: dict[str, str]) -> None:
    answer(environment, "users", "import", "-", stdin='{"id": "ana"}\n')
    with start_server(environment):
        sent = answer(environment, "send", "MESSAGE", "--to", "ana", "--var", "title=Hi", "--var", "body=There")
        explanation = answer(environment, "explain", "--user", "ana", "--notification", sent["id"])
        unknown = tidings(environment, "explain", "--user", "nobody", "--notification", sent["id"], "--json")
    assert explanation["verdict"] in {"waiting", "skipped"}
    assert explanation["sentences"]
    assert (unknown.returncode, json.loads(unknown.stdout)["verdict"]) == (1, "unknown_user")


def test_errors_of_send_name_the_command_line_flag(environment: dict[str, str]) -> None:
    answer(environment, "users", "import", "-", stdin='{"id": "ana"}\n')
    done = tidings(environment, "send", "MESSAGE", "--to", "nobody", "--var", "title=Hi", "--var", "body=There")
    assert done.returncode == 2
    assert "error: --to: " in done.stderr
    assert "nobody" in done.stderr
    done = tidings(environment, "send", "MESSAGE", "--to", "ana", "--var", "title=Hi", "--url", "javascript:1")
    assert done.returncode == 2
    assert "--var body=…: is missing" in done.stderr
    assert "--url: " in done.stderr
    assert "error: TEMPLATE: " in tidings(environment, "send", "MESAGE", "--to", "ana").stderr


def test_lines_that_are_not_utf8_are_reported_and_the_others_imported(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "users").write_bytes(b'{"id": "ana"}\n{"id": "b\xff"}\n{"id": "cy"}\r\n')
    done = tidings(environment, "users", "import", str(tmp_path / "users"))
    assert (done.returncode, done.stderr) == (1, "line 2: must be UTF-8\n")
    assert [user["id"] for user in answer(environment, "users", "list")] == ["ana", "cy"]


def test_a_user_is_shown_with_attributes_as_json(environment: dict[str, str]) -> None:
    answer(environment, "users", "import", "-", stdin='{"id": "ana", "attributes": {"tier": "gold"}}\n')
    assert '{"tier":"gold"}' in tidings(environment, "users", "show", "ana").stdout


def test_created_files_are_readable_by_their_owner_only(environment: dict[str, str], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with start_server(environment):
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    finally:
        os.umask(before)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert {modes[f"tidings.db{suffix}"] for suffix in ("", "-wal", "-shm")} == {0o600}


def test_doctor_checks_the_secret_key_against_the_database(environment: dict[str, str]) -> None:
    with start_server(environment):
        pass
    report = answer(environment, "doctor")
    assert "ok" in {one["level"] for one in report["checks"] if one["check"] == "TIDINGS_SECRET_KEY"}
    done = tidings(environment | {"TIDINGS_SECRET_KEY": "another " * 8}, "doctor", "--json")
    assert done.returncode == 1
    problems = [one["check"] for one in json.loads(done.stdout)["checks"] if one["level"] == "problem"]
    assert problems == ["TIDINGS_SECRET_KEY"]


def test_the_server_warns_at_start_of_risky_settings(environment: dict[str, str]) -> None:
    set_wrong = environment | {"TIDINGS_PROT": "1", "TIDINGS_BOOTSTRAP_KEY": "short"}
    with start_server(set_wrong) as (server, _):
        server.terminate()
        assert server.stderr is not None
        logged = server.stderr.read()
    events = [json.loads(line) for line in logged.splitlines() if line.startswith("{")]
    warnings = {event["event"]: event for event in events if event["level"] == "warning"}
    assert warnings["unknown_setting"]["setting"] == "TIDINGS_PROT"
    assert warnings["weak_bootstrap_key"]["min_length"] == 16


def test_the_vapid_key_is_created_once_and_its_private_key_is_not_shown(environment: dict[str, str]) -> None:
    answer(environment, "keys", "create", "--scope", "read")
    first, second = answer(environment, "vapid", "show"), answer(environment, "vapid", "show")
    assert first == second
    (key,) = first["keys"]
    assert set(key) == {"keyId", "publicKey", "createdAt", "retiredAt"}
    assert len(key["publicKey"]) == 87


def test_the_api_description_is_printed_without_a_database(environment: dict[str, str], tmp_path: Path) -> None:
    done = process(environment, "openapi")
    assert json.loads(done.stdout)["openapi"].startswith("3.")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_demo_notifies_all_ticket_holders_and_can_be_restarted(environment: dict[str, str]) -> None:
    with start_server(environment, "--demo") as (_, places):
        url, key = places["url"], places["apiKey"]
        moved = {"startDate": "2030-06-21T20:30:00+02:00", "endDate": "2030-06-21T23:30:00+02:00"}
        (event,) = [one for one in call(f"{url}/api/events", key)["items"] if one["title"].startswith("Night of")]
        notification = call(f"{url}/api/events/{event['id']}", key, "PATCH", moved)["notification"]["id"]
        status = _finished(f"{url}/api/notifications/{notification}", key)
        assert status["recipients"] == 4900
        assert set(status["byState"]) == {"delivered"}
        assert _verdict(environment, notification, 3) == "delivered"
        assert _verdict(environment, notification, 25) == "delivered", "by e-mail and in the feed, without a device"
        assert _verdict(environment, notification, 41) == "skipped"
        assert _verdict(environment, notification, 52) == "not_in_audience"
    with start_server(environment, "--demo") as (_, places):
        assert places["apiKey"] == key
        assert call(f"{places['url']}/api/events/{event['id']}", key)["startDate"] == "2030-06-21T18:30:00Z"
        message = {"userId": "demo-0003", "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "There"}}
        again = call(f"{places['url']}/api/notifications", key, "POST", message)["id"]
        assert _finished(f"{places['url']}/api/notifications/{again}", key)["byState"] == {"delivered": 4}
        with urlopen(f"{places['url']}/demo/api/mailbox?userId=demo-0003", timeout=60) as page:
            assert "Hi" in page.read().decode(), "the link leads to the user's e-mails"


def _finished(url: str, key: str) -> Any:
    """Poll until every recipient has a final state, with pauses to spare the server."""
    deadline = time.monotonic() + 120
    while not (status := call(url, key))["finished"]:
        assert time.monotonic() < deadline, f"not finished: {status}"
        time.sleep(0.1)
    return status


def _verdict(environment: dict[str, str], notification: str, number: int) -> Any:
    return answer(environment, "explain", "--user", f"demo-{number:04}", "--notification", notification)["verdict"]
