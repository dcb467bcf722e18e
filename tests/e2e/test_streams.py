"""Live rooms through real connections: joining, counting, the end that reaches the host, and refusals."""

import asyncio
import email
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest
import pytest_asyncio
import websockets
from tests.support.server import USER_SECRET, TidingsServer, eventually
from tests.support.smtp_relays import SmtpRelay, run_relay
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tidings.credentials import sign_user_token
from tidings.testing.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
#: seconds; leases are multiples of the heartbeat
HEARTBEAT, GRACE = 0.4, 1.2


@pytest.fixture(scope="module")
def room_port() -> int:
    return free_port()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay() -> AsyncIterator[SmtpRelay]:
    async with run_relay() as started:
        yield started


@pytest.fixture(scope="module")
def settings(room_port: int, relay: SmtpRelay) -> Mapping[str, str]:
    return {
        "TIDINGS_SMTP_URL": f"smtp://127.0.0.1:{relay.port}",
        "TIDINGS_EMAIL_FROM": "Jazz Club <news@jazz.example>",
        "TIDINGS_STREAM_GRACE": str(GRACE),
        "TIDINGS_STREAM_HEARTBEAT": str(HEARTBEAT),
        "TIDINGS_STREAM_USER_CONNECTIONS": "3",
        "TIDINGS_INAPP__ENABLED": "true",
        "WEBSOCKET_PORT": str(room_port),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def host(server: TidingsServer) -> None:
    await server.expect(201, "PUT", "/api/users/host", {})


async def create_event(server: TidingsServer, **fields: object) -> str:
    body = {"title": "Jazz", "startDate": "2027-01-01T20:00:00Z", "hostId": "host", "status": "ACTIVE", **fields}
    created: Json = (await server.expect(201, "POST", "/api/events", body)).read(Json)
    return str(created["id"])


def url_of(server: TidingsServer, event: str, query: str, *, port: int | None = None) -> str:
    base = server.url.replace("http://", "ws://")
    if port is not None:
        base = f"{base.rpartition(':')[0]}:{port}"
    return f"{base}/api/streams/{event}/ws?{query}"


@asynccontextmanager
async def watch(server: TidingsServer, event: str, user: str) -> AsyncIterator[ClientConnection]:
    """Join as a user, and answer the heartbeats until the end of the block."""
    async with connect(url_of(server, event, f"token={server.user_token(user)}")) as socket:
        assert json.loads(await socket.recv())["type"] == "joined"
        answering = asyncio.create_task(answer_heartbeats(socket))
        try:
            yield socket
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def answer_heartbeats(socket: ClientConnection) -> None:
    async for message in socket:
        if json.loads(message)["type"] == "ping":
            await socket.send("{}")


async def read_without_answers(socket: ClientConnection) -> None:
    async for _ in socket:
        pass


async def state_of(server: TidingsServer, event: str) -> Json:
    return (await server.expect(200, "GET", f"/api/streams/{event}")).read(Json)


async def wait_for_state(server: TidingsServer, event: str, state: str) -> Json:
    async def check() -> Json | None:
        stream = await state_of(server, event)
        return stream if stream["state"] == state else None

    return await eventually(check, within=20)


async def close_code(server: TidingsServer, event: str, query: str) -> int:
    async with connect(url_of(server, event, query)) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code is not None
        return socket.close_code


async def feed_of(server: TidingsServer, user: str) -> list[Json]:
    page = (await server.expect(200, "GET", "/api/inbox", token=server.user_token(user))).read(Json)
    items: list[Json] = page["items"]
    return items


async def test_m24_the_host_is_notified_once_after_the_last_viewer_left(server: TidingsServer) -> None:
    event = await create_event(server, title="Jazz at noon")
    assert (await state_of(server, event))["state"] == "empty"
    async with watch(server, event, "ada"), watch(server, event, "ada"), watch(server, event, "bo"):
        counts = (await server.expect(200, "GET", f"/api/streams/{event}/clients")).read(Json)
        assert counts == {"count": 2, "users": 2, "connections": 3}
        assert (await server.expect(200, "GET", "/api/streams/clients")).read(Json)["total"] >= 3
        live = await state_of(server, event)
        assert (live["state"], live["epoch"], live["viewers"]) == ("live", 1, 2)
    ended = await wait_for_state(server, event, "ended")
    assert ended["epoch"] == 1

    async def notices() -> list[Json] | None:
        return [item for item in await feed_of(server, "host") if "Jazz at noon" in item["body"]] or None

    (notice,) = await eventually(notices, within=20)
    assert notice["title"] == "Event Stream Completed"
    assert 'Your event "Jazz at noon" stream has ended. All viewers have disconnected' in notice["body"]
    assert notice["url"].endswith(f"/events/{event}")


async def test_the_notice_obeys_the_preferences_of_the_host(server: TidingsServer) -> None:
    host = server.user_token("shy-host")
    await server.expect(201, "PUT", "/api/users/shy-host", {"email": "shy@example.org"})
    choices = {"preferences": [{"category": "STREAM_ENDED", "channel": "email", "enabled": False}]}
    await server.expect(200, "PUT", "/api/users/me/preferences", choices, token=host)
    event = await create_event(server, title="Jazz in secret", hostId="shy-host")
    async with watch(server, event, "ada"):
        assert (await state_of(server, event))["state"] == "live"

    async def find() -> list[Json] | None:
        path = "/api/notifications?templateCode=STREAM_ENDED&userId=shy-host"
        return (await server.expect(200, "GET", path)).read(Json)["items"] or None

    (notice,) = await eventually(find, within=30)
    progress = await server.wait_until_finished(notice["id"])
    assert progress.by_state == {"delivered": 1}, "in the feed"
    traced = (await server.expect(200, "GET", f"/api/notifications/{notice['id']}/trace")).read(Json)
    assert {one["channel"]: one["reason"] for one in traced["skips"]}["email"] == "preference_off"


async def test_e03_a_viewer_who_is_back_within_the_grace_keeps_the_epoch(server: TidingsServer) -> None:
    event = await create_event(server)
    async with watch(server, event, "ada"):
        pass
    assert (await wait_for_state(server, event, "grace"))["epoch"] == 1
    async with watch(server, event, "bo"):
        # longer than the grace period of the departure before
        await asyncio.sleep(GRACE * 1.5)
        stream = await state_of(server, event)
        assert (stream["state"], stream["epoch"]) == ("live", 1)


async def test_e04_a_silent_viewer_is_cut_and_counts_until_the_lease_ends(server: TidingsServer) -> None:
    event = await create_event(server)
    async with connect(url_of(server, event, f"token={server.user_token('ada')}")) as socket:
        with pytest.raises(ConnectionClosed):
            await read_without_answers(socket)
        assert socket.close_code == 4408
    assert (await wait_for_state(server, event, "ended"))["epoch"] == 1


async def test_e19_the_connection_is_closed_when_the_token_ends(server: TidingsServer) -> None:
    event = await create_event(server)
    token = sign_user_token(USER_SECRET, "ada", timedelta(seconds=2), datetime.now(UTC))
    async with connect(url_of(server, event, f"token={token}")) as socket:
        with pytest.raises(ConnectionClosed):
            await answer_heartbeats(socket)
    assert socket.close_code == 4401
    async with watch(server, event, "ada"):
        assert (await state_of(server, event))["epoch"] == 1


async def test_a_ticket_opens_one_connection(server: TidingsServer) -> None:
    event = await create_event(server)
    created = (await server.expect(201, "POST", "/api/tickets", {}, token=server.user_token("ada"))).read(Json)
    query = f"ticket={created['ticket']}"
    async with connect(url_of(server, event, query)) as socket:
        assert json.loads(await socket.recv())["type"] == "joined"
        assert await close_code(server, event, query) == 4401


async def test_access_is_refused_with_a_close_code_that_pages_can_read(server: TidingsServer) -> None:
    public, draft = await create_event(server), await create_event(server, status="DRAFT")
    token = f"token={server.user_token('ada')}"
    assert await close_code(server, public, "token=nonsense") == 4401
    assert await close_code(server, public, "") == 4401
    assert await close_code(server, draft, token) == 4403
    assert await close_code(server, "unknown", token) == 4403
    async with watch(server, draft, "host"):
        assert (await state_of(server, draft))["viewers"] == 1


async def test_e19_a_stream_for_ticket_holders_checks_the_ticket_whenever_a_viewer_joins(server: TidingsServer) -> None:
    await server.expect(201, "PUT", "/api/users/tina", {})
    event = await create_event(server)
    path, host, tina = f"/api/streams/{event}", server.user_token("host"), server.user_token("tina")
    await server.expect(422, "PUT", path, {"access": "everybody"}, token=host)
    limited: Json = (await server.expect(200, "PUT", path, {"access": "ticket_holders"}, token=host)).read(Json)
    assert limited["access"] == "ticket_holders"
    assert await close_code(server, event, f"token={tina}") == 4403
    await server.expect(404, "GET", path, token=tina)
    await server.expect(201, "POST", f"/api/events/{event}/tickets", {"userId": "tina"})
    short = sign_user_token(USER_SECRET, "tina", timedelta(seconds=2), datetime.now(UTC))
    async with watch(server, event, "host"), connect(url_of(server, event, f"token={short}")) as socket:
        await server.expect(204, "DELETE", f"/api/events/{event}/tickets", {"userId": "tina"})
        # the end of the token closes the connection, and the next one is refused
        with pytest.raises(ConnectionClosed):
            await answer_heartbeats(socket)
        assert socket.close_code == 4401
    assert await close_code(server, event, f"token={tina}") == 4403
    await server.expect(200, "PUT", path, {}, token=host)
    async with watch(server, event, "tina"):
        assert (await state_of(server, event))["access"] == "users"


async def test_connections_per_user_are_limited(server: TidingsServer) -> None:
    event = await create_event(server)
    async with watch(server, event, "cy"), watch(server, event, "cy"), watch(server, event, "cy"):
        assert await close_code(server, event, f"token={server.user_token('cy')}") == 4429
    async with watch(server, event, "cy"):
        assert (await state_of(server, event))["viewers"] == 1


async def test_a_page_of_another_site_cannot_connect(server: TidingsServer) -> None:
    event = await create_event(server)
    url = url_of(server, event, f"token={server.user_token('ada')}")
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, origin=websockets.Origin("https://evil.example"))
    assert refused.value.response.status_code == 403
    async with connect(url, origin=websockets.Origin(server.url)) as socket:
        assert json.loads(await socket.recv())["type"] == "joined"


async def test_m25_the_port_of_rooms_has_the_socket_and_its_own_health(server: TidingsServer, room_port: int) -> None:
    event = await create_event(server)
    async with connect(url_of(server, event, f"token={server.user_token('ada')}", port=room_port)) as socket:
        assert json.loads(await socket.recv())["viewers"] == 1
        reader, writer = await asyncio.open_connection("127.0.0.1", room_port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        response = (await reader.read()).decode()
        writer.close()
    assert response.startswith("HTTP/1.1 200")
    assert json.loads(response.partition("\r\n\r\n")[2])["status"] == "ok"


async def test_settings_of_event_and_host_change_the_grace_and_the_count(server: TidingsServer) -> None:
    event = await create_event(server)
    host = server.user_token("host")
    await server.expect(200, "PUT", "/api/users/me/stream-settings", {"graceSeconds": 60}, token=host)
    await server.expect(200, "PUT", f"/api/streams/{event}", {"countBy": "connection"}, token=host)
    stream = await state_of(server, event)
    assert (stream["graceSeconds"], stream["countBy"]) == (60.0, "connection")
    await server.expect(404, "PUT", f"/api/streams/{event}", {}, token=server.user_token("ada"))
    async with watch(server, event, "ada"), watch(server, event, "ada"):
        assert (await state_of(server, event))["viewers"] == 2
    await server.expect(200, "PUT", "/api/users/me/stream-settings", {}, token=host)


async def test_the_log_contains_no_token(server: TidingsServer) -> None:
    event = await create_event(server)
    token = server.user_token("dora")
    async with connect(url_of(server, event, f"token={token}")) as socket:
        await socket.recv()
    assert await close_code(server, "unknown", f"token={token}") == 4403
    assert token not in server.log.read_text(encoding="utf-8")


async def test_the_command_line_lists_live_rooms(server: TidingsServer) -> None:
    event = await create_event(server)
    async with watch(server, event, "ada"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings.cli", "rooms", "list", "--json"),
            env=server.environment,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        rooms: list[Json] = json.loads(output)
        assert [(room["epoch"], room["users"]) for room in rooms if room["eventId"] == event] == [(1, None)]
        metrics = (await server.expect(200, "GET", "/metrics", token=None)).body.decode()
    assert re.search(r"^tidings_room_connections(\{[^}]*\})? [1-9]", metrics, re.MULTILINE)


async def test_the_host_receives_an_email_with_a_button_to_the_dashboard(
    server: TidingsServer, relay: SmtpRelay
) -> None:
    await server.expect(201, "PUT", "/api/users/mia", {"email": "mia@jazz.example"})
    event = await create_event(server, title="Jazz & Blues", hostId="mia")
    async with watch(server, event, "ada"):
        pass

    async def find_mail() -> EmailMessage | None:
        for envelope in relay.accepted:
            if envelope.rcpt_tos == ["mia@jazz.example"] and isinstance(envelope.content, bytes):
                message = email.message_from_bytes(envelope.content, policy=default)
                return message if isinstance(message, EmailMessage) else None
        return None

    message = await eventually(find_mail, within=20)
    assert message["Subject"] == "Event Stream Ended - Jazz & Blues"
    html = message.get_body(("html",))
    assert html is not None
    text = html.get_content()
    for words in ("Event Stream Completed", "Your event stream has ended", "View Event Dashboard"):
        assert words in text
    assert f'href="{server.url}/events/{event}"' in text
