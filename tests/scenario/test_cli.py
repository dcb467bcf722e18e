"""The command line as a person uses it: a real server, real processes, one data folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

CONSOLE = [sys.executable, "-m", "tidings.cli"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    return clean | {"TIDINGS_DATA_DIR": str(tmp_path / "data")}


def tidings(environment: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CONSOLE, *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def answer(environment: dict[str, str], *arguments: str, stdin: str = "") -> Any:
    done = tidings(environment, *arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def serving(environment: dict[str, str], *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run a server on a free port; the line that it prints says when requests are answered."""
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
def test_a_server_stops_in_order(environment: dict[str, str], number: signal.Signals) -> None:
    with serving(environment) as (server, places):
        with urlopen(places["url"] + "/health/live", timeout=10) as response:
            assert response.status == 200
        server.send_signal(number)
        assert server.wait(timeout=30) == 0


def test_two_servers_on_one_database_are_refused(environment: dict[str, str]) -> None:
    with serving(environment) as (server, _):
        second = tidings(environment, "serve", "--port", "0")
    assert second.returncode == 2
    assert f"error: TIDINGS_DATA_DIR: another tidings serve (process {server.pid})" in second.stderr


def test_a_taken_port_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    with serving(environment) as (_, places):
        port = places["url"].rpartition(":")[2]
        second = tidings(environment, "serve", "--port", port, "--data-dir", str(tmp_path / "other"))
    assert second.returncode == 2
    assert f"error: TIDINGS_PORT: cannot listen on 127.0.0.1 port {port}" in second.stderr
    assert "choose another with --port or TIDINGS_PORT" in second.stderr


def test_a_key_made_while_the_server_runs_works_until_it_is_revoked(environment: dict[str, str]) -> None:
    with serving(environment) as (_, places):
        made = answer(environment, "keys", "create", "--scope", "read", "--scope", "notify", "--label", "shop")
        assert call(places["url"] + "/api/templates", made["key"])["items"]
    listed = answer(environment, "keys", "list")
    assert [(key["id"], key["label"], key["scopes"]) for key in listed] == [(made["id"], "shop", ["notify", "read"])]
    assert made["key"] not in json.dumps(listed)
    assert answer(environment, "keys", "revoke", made["id"]) == {"id": made["id"], "revoked": True}
    again = tidings(environment, "keys", "revoke", made["id"])
    assert again.returncode == 1
    assert again.stderr.startswith("error: there is no active key")


def test_a_key_can_be_captured_by_a_shell(environment: dict[str, str]) -> None:
    made = tidings(environment, "keys", "create", "--scope", "admin")
    assert re.fullmatch(r"tdg_\w+\n", made.stdout)
    assert "not shown again" in made.stderr


def test_users_are_imported_line_by_line(environment: dict[str, str]) -> None:
    lines = (
        '{"id": "ana", "locale": "de-CH", "timezone": "Europe/Zurich"}\n\nnonsense\n{"id": "bo", "locale": "xx-!"}\n'
    )
    done = tidings(environment, "users", "import", "-", "--json", stdin=lines)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["new"], report["changed"], [fault["line"] for fault in report["refused"]]) == (1, 0, [3, 4])
    assert [user["id"] for user in answer(environment, "users", "list")] == ["ana"]
    assert answer(environment, "users", "show", "ana")["timezone"] == "Europe/Zurich"
    assert tidings(environment, "users", "show", "bo").returncode == 1


def test_a_message_is_sent_and_explained(environment: dict[str, str]) -> None:
    answer(environment, "users", "import", "-", stdin='{"id": "ana"}\n')
    with serving(environment):
        sent = answer(environment, "send", "MESSAGE", "--to", "ana", "--var", "title=Hi", "--var", "body=There")
        told = answer(environment, "explain", "--user", "ana", "--notification", sent["id"])
        unknown = tidings(environment, "explain", "--user", "nobody", "--notification", sent["id"], "--json")
    assert told["verdict"] in {"waiting", "skipped"}
    assert told["sentences"]
    assert (unknown.returncode, json.loads(unknown.stdout)["verdict"]) == (1, "unknown_user")


def test_what_cannot_be_sent_is_told_in_flags(environment: dict[str, str]) -> None:
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


def test_lines_that_are_not_utf8_are_reported_and_the_others_kept(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes(b'{"id": "ana"}\n{"id": "b\xff"}\n{"id": "cy"}\r\n')
    done = tidings(environment, "users", "import", str(tmp_path / "users"))
    assert (done.returncode, done.stderr) == (1, "line 2: is not UTF-8\n")
    assert [user["id"] for user in answer(environment, "users", "list")] == ["ana", "cy"]


def test_a_user_is_shown_with_attributes_as_json(environment: dict[str, str]) -> None:
    answer(environment, "users", "import", "-", stdin='{"id": "ana", "attributes": {"tier": "gold"}}\n')
    assert '{"tier":"gold"}' in tidings(environment, "users", "show", "ana").stdout


def test_what_is_made_is_for_its_owner_only(environment: dict[str, str], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with serving(environment):
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    finally:
        os.umask(before)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert {modes[f"tidings.db{suffix}"] for suffix in ("", "-wal", "-shm")} == {0o600}


def test_doctor_tries_the_secret_on_the_database(environment: dict[str, str]) -> None:
    answer(environment, "keys", "create", "--scope", "read")
    report = answer(environment, "doctor")
    assert "ok" in {one["level"] for one in report["checks"] if one["check"] == "TIDINGS_SECRET_KEY"}
    done = tidings(environment | {"TIDINGS_SECRET_KEY": "another " * 8}, "doctor", "--json")
    assert done.returncode == 1
    problems = [one["check"] for one in json.loads(done.stdout)["checks"] if one["level"] == "problem"]
    assert problems == ["TIDINGS_SECRET_KEY"]


def test_the_start_warns_of_settings_that_are_easily_overlooked(environment: dict[str, str]) -> None:
    set_wrong = environment | {"TIDINGS_PROT": "1", "TIDINGS_BOOTSTRAP_KEY": "short"}
    with serving(set_wrong) as (server, _):
        server.terminate()
        assert server.stderr is not None
        logged = server.stderr.read()
    assert "TIDINGS_PROT is set, but no setting" in logged
    assert "TIDINGS_BOOTSTRAP_KEY is shorter than 16 characters" in logged


def test_the_vapid_key_is_made_once_and_its_private_half_is_not_shown(environment: dict[str, str]) -> None:
    answer(environment, "keys", "create", "--scope", "read")
    first, second = answer(environment, "vapid", "show"), answer(environment, "vapid", "show")
    assert first == second
    (key,) = first["keys"]
    assert set(key) == {"keyId", "publicKey", "createdAt", "retiredAt"}
    assert len(key["publicKey"]) == 87


def test_the_api_description_is_printed_without_a_database(environment: dict[str, str], tmp_path: Path) -> None:
    done = tidings(environment, "openapi")
    assert json.loads(done.stdout)["openapi"].startswith("3.")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_demo_tells_everybody_with_a_ticket_and_starts_again_as_it_was(environment: dict[str, str]) -> None:
    with serving(environment, "--demo") as (_, places):
        url, key = places["url"], places["apiKey"]
        moved = {"startDate": "2030-06-21T20:30:00+02:00", "endDate": "2030-06-21T23:30:00+02:00"}
        (event,) = [one for one in call(f"{url}/api/events", key)["items"] if one["title"].startswith("Night of")]
        notification = call(f"{url}/api/events/{event['id']}", key, "PATCH", moved)["notification"]["id"]
        status = _finished(f"{url}/api/notifications/{notification}", key)
        assert status["recipients"] == 4900
        assert set(status["byState"]) == {"delivered"}
        assert _verdict(environment, notification, 3) == "delivered"
        assert _verdict(environment, notification, 25) == "skipped"
        assert _verdict(environment, notification, 52) == "not_in_audience"
    with serving(environment, "--demo") as (_, places):
        assert places["apiKey"] == key
        assert call(f"{places['url']}/api/events/{event['id']}", key)["startDate"] == "2030-06-21T18:30:00Z"
        asked = {"userId": "demo-0003", "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "There"}}
        again = call(f"{places['url']}/api/notifications", key, "POST", asked)["id"]
        assert _finished(f"{places['url']}/api/notifications/{again}", key)["byState"] == {"delivered": 2}


def _finished(url: str, key: str) -> Any:
    """Ask until every recipient has a final state, with a pause so that asking does not take the server's time."""
    deadline = time.monotonic() + 60
    while not (status := call(url, key))["finished"]:
        assert time.monotonic() < deadline, f"not finished: {status}"
        time.sleep(0.1)
    return status


def _verdict(environment: dict[str, str], notification: str, number: int) -> Any:
    return answer(environment, "explain", "--user", f"demo-{number:04}", "--notification", notification)["verdict"]
