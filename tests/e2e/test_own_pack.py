"""A pack from a distribution of its own: its table, its audience and its texts, through the real commands."""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.documented_distribution import write_documented_distribution
from tests.support.pack_distribution import write_distribution
from tests.support.server import TidingsServer, eventually

Json = dict[str, Any]
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "new-pack.md"


def tidings(folder: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command with the distribution installed; return exit code, output and errors."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    done = subprocess.run(
        [sys.executable, "-m", "tidings.cli", *arguments],
        env={
            **clean,
            "PYTHONPATH": str(folder),
            "TIDINGS_DATA_DIR": str(folder / "data"),
            "TIDINGS_PORT": "0",
            **(environ or {}),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_distribution(tmp_path / "site")


def test_db_commands_show_and_run_the_migrations_of_a_pack(folder: Path) -> None:
    code, output, _ = tidings(folder, "db", "status", "--json")
    assert (code, json.loads(output)["packs"]["library"]) == (1, {"current": None, "upToDate": False})
    code, output, errors = tidings(folder, "db", "upgrade", "--json")
    assert (code, json.loads(output)["packs"]["library"]) == (0, {"from": None, "to": "0002"}), errors
    code, output, _ = tidings(folder, "db", "status")
    assert code == 0
    assert "pack library in" in output
    code, output, errors = tidings(folder, "db", "downgrade", "0001", "--pack", "library", "--yes", "--json")
    assert (code, json.loads(output)["packs"]) == (0, {"library": {"from": "0002", "to": "0001"}}), errors
    code, output, _ = tidings(folder, "doctor", "--json")
    found = {check["check"]: check for check in json.loads(output)["checks"]}
    assert code == 0
    assert found["packs"]["message"].startswith("commerce, core, events, library, streams: ")
    assert found["pack library"]["message"] == "has schema 0001, not 0002; the next start upgrades it"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_processes_that_start_at_once_migrate_a_pack_once(
    database: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    environ = {} if database == "sqlite" else {"TIDINGS_DATABASE": request.getfixturevalue("postgres_url")}
    with ThreadPoolExecutor(3) as threads:
        runs = [threads.submit(tidings, folder, "db", "upgrade", "--json", environ=environ) for _ in range(3)]
    results = [run.result() for run in runs]
    assert [code for code, _, _ in results] == [0, 0, 0], results
    assert {json.loads(output)["packs"]["library"]["to"] for _, output, _ in results} == {"0002"}


async def test_a_server_creates_the_table_of_a_pack_and_notifies_its_audience(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with TidingsServer(data, settings={"PYTHONPATH": str(folder)}) as server:
        await server.expect(201, "PUT", "/api/users/ana", {"locale": "de"})
        with sqlite3.connect(data / "tidings.db") as database:
            database.execute("INSERT INTO reservations VALUES ('ulysses', 'ana')")
        database.close()
        body = {
            "templateCode": "BOOK_READY",
            "audience": {"kind": "reserved", "bookId": "ulysses"},
            "variables": {"title": "Ulysses"},
        }
        accepted = await server.expect(202, "POST", "/api/notifications", body)
        progress = await server.wait_until_finished(accepted.read(dict[str, Any])["id"])
        assert (progress.recipients, progress.skipped) == (1, 1), "she has no device"


@pytest.mark.parametrize("command", ["serve", "api", "worker", "doctor"])
def test_a_text_that_is_broken_in_one_language_is_found_at_the_start(command: str, tmp_path: Path) -> None:
    folder = write_distribution(tmp_path / "site", german_body="{% if late %}{{ title | shuot }}{% endif %}")
    database = {} if command in ("serve", "doctor") else {"TIDINGS_DATABASE": "postgresql://nobody@127.0.0.1:1/none"}
    code, output, errors = tidings(folder, command, "--json", environ=database)
    assert code == (1 if command == "doctor" else 2)
    text = " ".join((output + errors).split())
    assert "pack library, template BOOK_READY (version 1), locale de, body: unknown filter 'shuot'" in text


def test_a_pack_that_cannot_be_loaded_is_named(folder: Path) -> None:
    (folder / "library_pack" / "__init__.py").write_text("import no_such_module\n")
    for command in ("serve", "doctor"):
        code, output, errors = tidings(folder, command, "--json")
        assert code == (1 if command == "doctor" else 2)
        assert "pack library (library_pack:pack) cannot be loaded" in " ".join((output + errors).split())


@pytest.fixture
def documented(tmp_path: Path) -> Path:
    """The distribution of the how-to, as `pip install` would leave it."""
    return write_documented_distribution(PAGE, tmp_path / "site", name="library_pack", group="tidings.packs")


def test_the_documented_pack_has_less_than_150_lines_of_code() -> None:
    blocks = re.findall(r"^```python\n# \S+\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert 100 < len(lines) < 150


async def test_each_part_of_the_documented_pack_works(documented: Path, tmp_path: Path) -> None:
    settings = {"PYTHONPATH": str(documented), "TIDINGS_LIBRARY__SEARCH_EVERY": "0.2", "TIDINGS_INAPP__ENABLED": "true"}
    async with TidingsServer(tmp_path / "data", settings=settings) as server:
        for name in ("ana", "ben"):
            await server.expect(201, "PUT", f"/api/users/{name}", {"locale": "de", "timezone": "Europe/Berlin"})
        # the route, and the table of the migration
        due = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
        loan = {"userId": "ana", "title": "Ulysses", "dueAt": due.isoformat()}
        await server.expect(200, "PUT", "/api/loans/ulysses", loan)
        await server.expect(404, "PUT", "/api/loans/ulysses", {**loan, "userId": "nobody"})
        # the background task: nothing is due, then the loan ends sooner
        await server.expect(200, "PUT", "/api/loans/emma", {**loan, "userId": "ben", "title": "Emma"})
        soon = {**loan, "dueAt": (due - timedelta(days=1, hours=1)).isoformat()}
        await server.expect(200, "PUT", "/api/loans/ulysses", soon)

        async def list_items() -> list[Json]:
            token = server.user_token("ana")
            items: list[Json] = (await server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"]
            return items

        async def is_reminded() -> bool:
            return bool(await list_items())

        await eventually(is_reminded, pause=0.5)
        [item] = await list_items()
        assert (item["title"], item["category"]) == ("Ulysses", "LOAN_DUE")
        assert re.fullmatch(r"Bitte bis .+ \d{2}:\d{2} zurückgeben\.", item["body"])
        token = server.user_token("ben")
        assert (await server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"] == []
        # the rule: a loan that is over is not reminded of, and explain says which rule decided with which inputs
        over = (due - timedelta(days=9)).isoformat()
        variables = {"bookId": "emma", "title": "Emma", "dueAt": over}
        body = {"userId": "ben", "templateCode": "LOAN_DUE", "variables": variables}
        accepted = (await server.expect(202, "POST", "/api/notifications", body)).read(Json)
        assert (await server.wait_until_finished(accepted["id"])).skipped > 0
        why = (await server.expect(200, "GET", f"/api/explain?userId=ben&notificationId={accepted['id']}")).read(Json)
        skip = next(skip for skip in why["skips"] if skip["channel"] == "inapp")
        assert (skip["reason"], skip["detail"]) == ("pack_rule", {"rule": "loan_is_over", "dueAt": over})
        assert any("the rule loan_is_over of a pack decided against it" in text for text in why["sentences"])
        # settings, check and schema
        _, output, errors = await asyncio.to_thread(tidings, documented, "doctor", "--json", environ=server.environment)
        found = json.loads(output)
        checks = {check["check"]: check for check in found["checks"]}
        assert checks["library"]["message"] == "reminds 24 hours before a book is due", errors
        origins = {one["name"]: (one["value"], one["origin"]) for one in found["settings"]}
        assert origins["TIDINGS_LIBRARY__SEARCH_EVERY"] == ("0.2", "environment")
        assert origins["TIDINGS_LIBRARY__HOURS_BEFORE"] == ("24", "default")
        # export and erasure
        export = (await server.expect(200, "GET", "/api/users/ana")).read(Json)
        assert export["packs"]["library"] == {"loans": ["ulysses"]}
        await server.expect(204, "DELETE", "/api/users/ana")
        with sqlite3.connect(tmp_path / "data" / "tidings.db") as database:
            assert database.execute("SELECT book_id FROM loans").fetchall() == [("emma",)]
        database.close()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TIDINGS_LIBRARY__HOURS_BEFORE", "0", "input should be greater than or equal to 1"),
        ("TIDINGS_LIBRARY__HOURS", "1", "is not a setting; known are: hours_before, search_every"),
    ],
)
def test_a_wrong_setting_of_a_pack_stops_the_start(name: str, value: str, message: str, documented: Path) -> None:
    code, _, errors = tidings(documented, "serve", environ={name: value})
    assert code == 2
    assert f"{name}: {message}" in " ".join(errors.split())
