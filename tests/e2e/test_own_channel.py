"""A channel from a distribution of its own: the code of docs/howto/new-channel.md, through a real server."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.documented_distribution import write_documented_distribution
from tests.support.server import TidingsServer, eventually

Json = dict[str, Any]
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "new-channel.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The distribution, as `pip install` would leave it."""
    return write_documented_distribution(PAGE, tmp_path / "site", name="board_channel", group="tidings.channels")


async def notify(server: TidingsServer, *users: str, **options: object) -> str:
    body = {"userIds": users, "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
    accepted = await server.expect(202, "POST", "/api/notifications", {**body, "options": options})
    notification: str = accepted.read(Json)["id"]
    await server.wait_until_finished(notification)
    return notification


async def explain(server: TidingsServer, user: str, notification: str) -> str:
    path = f"/api/explain?userId={user}&notificationId={notification}"
    return str((await server.expect(200, "GET", path)).read(Json))


async def test_a_channel_of_another_distribution_sends_refuses_and_is_explained(folder: Path, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    settings = {"PYTHONPATH": str(folder), "TIDINGS_BOARD__FOLDER": str(boards)}
    async with TidingsServer(tmp_path / "data", settings=settings) as server:
        for name in ("ana", "ben", "cleo"):
            await server.expect(201, "PUT", f"/api/users/{name}", {})
        path = "/api/users/ana/contact-points"
        wrong = await server.expect(422, "POST", path, {"channel": "board", "address": "a b"})
        assert "must be the name of a notice board" in str(wrong.read(Json))
        first = await server.expect(201, "POST", path, {"channel": "board", "address": "Lobby", "label": "Work"})
        again = await server.expect(200, "POST", path, {"channel": "board", "address": "lobby"})
        assert first.read(Json)["id"] == again.read(Json)["id"]
        await server.expect(201, "POST", "/api/users/ben/contact-points", {"channel": "board", "address": "closed"})
        boards.mkdir(exist_ok=True)
        (boards / "closed.closed").touch()
        notification = await notify(server, "ana", "ben", "cleo")
        assert (boards / "lobby.txt").read_text() == "Hi: You (Messages)\n"
        assert "no usable address on board" in await explain(server, "cleo", notification)
        listed = (await server.expect(200, "GET", "/api/users/ben/contact-points")).read(Json)["items"]
        assert [(one["address"], one["state"]) for one in listed] == [("closed", "gone")]
        test = await server.expect(200, "POST", "/api/channels/board/test", {"address": "hall"})
        assert test.read(Json)["outcome"] == "delivered"
        assert (boards / "hall.txt").read_text().startswith("Test message: ")
        await server.expect(404, "POST", "/api/channels/webpush/test", {"address": "hall"})
        own = server.user_token("ana")
        [point] = (await server.expect(200, "GET", "/api/users/me/contact-points", token=own)).read(Json)["items"]
        other = server.user_token("ben")
        await server.expect(404, "DELETE", f"/api/users/me/contact-points/{point['id']}", token=other)
        await server.expect(204, "DELETE", f"/api/users/me/contact-points/{point['id']}", token=own)
        await notify(server, "ana", channels=["board"])
        assert (boards / "lobby.txt").read_text().count("\n") == 1


async def test_a_channel_that_is_not_configured_is_skipped_with_its_setting(folder: Path, tmp_path: Path) -> None:
    async with TidingsServer(tmp_path / "data", settings={"PYTHONPATH": str(folder)}) as server:
        await server.expect(201, "PUT", "/api/users/ana", {})
        notification = await notify(server, "ana", channels=["board"])
        assert "(set TIDINGS_BOARD__FOLDER)" in await explain(server, "ana", notification)
        refused = await server.expect(409, "POST", "/api/channels/board/test", {"address": "hall"})
        assert "TIDINGS_BOARD__FOLDER" in str(refused.read(Json))
        channels = (await server.expect(200, "GET", "/api/channels")).read(Json)["items"]
        assert {one["name"]: one["configured"] for one in channels}["board"] is False


async def run_command(server: TidingsServer, *arguments: str) -> tuple[int, str, str]:
    """Run `tidings …` on the server's data; return exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidings.cli", *arguments),
        env=server.environment,
        cwd=server.data_dir,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_each_part_of_a_channel_of_another_distribution_works(folder: Path, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    settings = {
        "PYTHONPATH": str(folder),
        "TIDINGS_BOARD__FOLDER": str(boards),
        "TIDINGS_BOARD__ARCHIVE_EVERY": "0.5",
        "TIDINGS_BOARD__MAX_BYTES": "50",
    }
    async with TidingsServer(tmp_path / "data", settings=settings) as server:
        # routes, and the table of the migration
        for name in ("ana", "ben"):
            await server.expect(201, "PUT", f"/api/users/{name}", {})
            token = server.user_token(name)
            await server.expect(204, "PUT", "/api/boards/Lobby/signature", token=token)
        await server.expect(401, "PUT", "/api/boards/lobby/signature", token="no token")
        # a message, and the background task
        await server.expect(201, "POST", "/api/users/ana/contact-points", {"channel": "board", "address": "lobby"})
        for _ in range(3):
            await notify(server, "ana")
        archived = boards / "lobby.old"

        async def is_archived() -> bool:
            return archived.exists()

        await eventually(is_archived)
        assert archived.read_text().startswith("Hi: You (Messages)\n")
        # commands, doctor and schema
        code, output, errors = await run_command(server, "board", "list", "--json")
        assert (code, json.loads(output)) == (0, [{"board": "lobby", "signatures": 2}]), errors
        _, output, errors = await run_command(server, "doctor", "--json")
        checks = {check["check"]: check for check in json.loads(output)["checks"]}
        assert checks["notice boards"] == {"level": "ok", "check": "notice boards", "message": f"are in {boards}"}, (
            errors
        )
        assert checks["TIDINGS_SECRET_KEY"]["level"] == "ok"
        _, output, errors = await run_command(server, "db", "status", "--json")
        assert json.loads(output)["channels"] == {"board": {"current": "0001", "upToDate": True}}, errors
        # export and erasure
        export = (await server.expect(200, "GET", "/api/users/ana")).read(Json)
        assert export["channels"] == {"board": {"signatures": ["lobby"]}}
        await server.expect(204, "DELETE", "/api/users/ana")
        _, output, _ = await run_command(server, "board", "list", "--json")
        assert json.loads(output) == [{"board": "lobby", "signatures": 1}]


@pytest.mark.extended
async def test_the_tables_of_a_channel_are_reverted_by_name(folder: Path, tmp_path: Path) -> None:
    server = TidingsServer(tmp_path / "data", settings={"PYTHONPATH": str(folder)})
    server.data_dir.mkdir()
    code, output, errors = await run_command(server, "db", "upgrade", "--json")
    assert (code, json.loads(output)["channels"]) == (0, {"board": {"from": None, "to": "0001"}}), errors
    code, output, errors = await run_command(server, "db", "downgrade", "base", "--channel", "board", "--yes", "--json")
    assert (code, json.loads(output)["channels"]) == (0, {"board": {"from": "0001", "to": None}}), errors
    code, _, errors = await run_command(server, "db", "downgrade", "base", "--channel", "bord", "--yes")
    assert (code, "no channel 'bord' with migrations; there are board" in errors) == (2, True)
    code, output, errors = await run_command(server, "db", "status", "--json")
    assert json.loads(output)["channels"] == {"board": {"current": None, "upToDate": False}}, errors
    _, output, _ = await run_command(server, "--help")
    assert "Commands of the channel board." in output


@pytest.mark.extended
async def test_a_wrong_setting_of_a_channel_stops_the_start(folder: Path, tmp_path: Path) -> None:
    settings = {"PYTHONPATH": str(folder), "TIDINGS_BOARD__FOLDR": "boards"}
    server = TidingsServer(tmp_path / "data", settings=settings)
    server.data_dir.mkdir()
    code, _, errors = await run_command(server, "serve", "--port", "0")
    assert code == 2
    assert "TIDINGS_BOARD__FOLDR: is not a setting; known are: folder, archive_every, max_bytes" in errors
