"""`examples/tickets`: the audience of a host product is a query of its own tables."""

from pathlib import Path
from typing import Any

from tests.support.host_process import HostProcess
from tests.support.server import TidingsServer

Json = dict[str, Any]
EXAMPLE = Path(__file__).parents[2] / "examples" / "tickets"


def install(folder: Path) -> str:
    """Install the example as `pip install -e` does, and return the path for `PYTHONPATH`."""
    metadata = folder / "tickets_host-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tickets-host\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tidings.packs]\nbox_office = tickets_host:pack\n")
    return f"{folder}:{EXAMPLE}"


async def test_the_visitors_of_a_show_are_told_its_new_hall(tmp_path: Path) -> None:
    settings = {"PYTHONPATH": install(tmp_path / "site"), "TIDINGS_INAPP__ENABLED": "true"}
    async with TidingsServer(tmp_path / "data", settings=settings) as server:
        for name in ("ana", "ben", "cleo"):
            await server.expect(201, "PUT", f"/api/users/{name}", {"locale": "de"})
        database = {"HOST_DATABASE": f"sqlite+aiosqlite:///{tmp_path / 'data' / 'tidings.db'}"}
        async with HostProcess(server, "tickets_host.app:app", EXAMPLE, database) as host:
            show = {"title": "Carmen", "hall": "Saal 1", "visitors": ["ana", "ben"]}
            show_id = (await host.post("shows", show)).read(Json)["id"]
            moved = (await host.post(f"shows/{show_id}/move", {"hall": "Saal 2"})).read(Json)
            assert (await host.post("shows/99/move", {"hall": "Saal 2"})).status == 404
        progress = await server.wait_until_finished(moved["notification"])
        assert (progress.recipients, progress.by_state) == (2, {"delivered": 2})
        token = server.user_token("ana")
        [item] = (await server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"]
        assert (item["title"], item["body"]) == ("Carmen: neuer Saal", "Sie findet in Saal 2 statt.")
        path = f"/api/explain?userId=ana&notificationId={moved['notification']}"
        assert "has a seat for show 1" in (await server.expect(200, "GET", path)).body.decode()
