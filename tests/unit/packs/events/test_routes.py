"""The routes of the pack over ASGI, with a pack context that checks scopes."""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI, Request
from starlette.types import Message

from tidings.api.accepting.idempotency import IdempotencyContext, KeyHeader
from tidings.api.http import problem_details, query_params
from tidings.config.settings import Settings
from tidings.errors import Forbidden
from tidings.model.template import Category
from tidings.model.user import User
from tidings.packs.events import pack
from tidings.ports.channel import Channel
from tidings.ports.clock import Clock
from tidings.ports.pack_context import NotificationAcceptor
from tidings.ports.rate_limits import RateLimit
from tidings.ports.store import Store, Transaction
from tidings.stores.store import SqlStore

if TYPE_CHECKING:
    from .conftest import ManualClock, RecordingNotifier

EVENT = {
    "title": "Jazz night",
    "startDate": "2026-11-22T19:00:00+01:00",
    "endDate": "2026-11-22T21:00:00Z",
    "venue": "Hall A",
    "timezone": "Europe/Berlin",
    "hostId": "host-1",
}


class FakePackContext:
    """A pack context that grants the scopes in the header `X-Scopes`."""

    def __init__(self, store: SqlStore, notifier: "RecordingNotifier", clock: "ManualClock") -> None:
        self.store: Store = store
        self.notifier: NotificationAcceptor = notifier
        self.clock: Clock = clock
        self.settings = Settings()
        self.secret_key = "a secret of at least 32 characters!"
        self.channels: Mapping[str, Channel] = {}

    def get_category(self, code: str) -> Category:
        return Category(code, code)

    def edit_preferences(self, _user_id: str) -> AbstractAsyncContextManager[Transaction]:
        return self.store.transaction()

    def require_scopes(self, *scopes: str) -> Callable[[Request], Awaitable[str]]:
        async def check(request: Request) -> str:
            if not set(scopes) & set(request.headers["X-Scopes"].split()):
                raise Forbidden(f"needs {' or '.join(scopes)}")
            return "key-1"

        return check

    def require_user(self) -> Callable[[Request], Awaitable[str]]:
        raise NotImplementedError

    def rate_limited(
        self, name: str, rate: RateLimit, key_for: Callable[[Request], Awaitable[str]] | None = None
    ) -> Callable[[Request], Awaitable[None]]:
        raise NotImplementedError

    async def get_user(self, tx: Transaction, user_id: str, *, lock: bool = False) -> User:
        raise NotImplementedError

    async def idempotent(self, request: Request, key: KeyHeader = None) -> IdempotencyContext:
        return IdempotencyContext(self.store, self.clock, request, await request.body())


class Api:
    """Calls an ASGI application."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        scopes: str = "admin notify read",
    ) -> tuple[int, dict[str, object]]:
        path, _, query = path.partition("?")
        sent: list[Message] = []
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()

        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": f"/api{path}",
            "raw_path": f"/api{path}".encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"x-scopes", scopes.encode()), (b"content-type", b"application/json")],
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
        }
        await self.app(scope, receive, send)
        answer = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], json.loads(answer) if answer else {}


@pytest.fixture
def app(store: SqlStore, notifier: "RecordingNotifier", clock: "ManualClock") -> FastAPI:
    assert pack.router is not None
    made = FastAPI()
    problem_details.install(made)
    query_params.install(made)
    made.include_router(pack.router(FakePackContext(store, notifier, clock)), prefix="/api")
    return made


@pytest.fixture
def api(app: FastAPI) -> Api:
    return Api(app)


@pytest.fixture
async def event_id(api: Api) -> str:
    _, event = await api("POST", "/events", {**EVENT, "status": "ACTIVE"})
    return str(event["id"])


async def test_an_event_is_created_and_read_back(api: Api) -> None:
    status, event = await api("POST", "/events", EVENT)
    assert status == 201
    assert event == {
        "id": event["id"],
        "title": "Jazz night",
        "description": "",
        "startDate": "2026-11-22T18:00:00Z",
        "endDate": "2026-11-22T21:00:00Z",
        "venue": "Hall A",
        "address": None,
        "city": None,
        "timezone": "Europe/Berlin",
        "hostId": "host-1",
        "status": "DRAFT",
        "firstPublishedAt": None,
        "version": 1,
        "createdAt": "2026-11-20T12:00:00Z",
        "updatedAt": "2026-11-20T12:00:00Z",
    }
    assert await api("GET", f"/events/{event['id']}") == (200, event)


async def test_a_patch_returns_event_change_and_notification(
    api: Api, event_id: str, notifier: "RecordingNotifier"
) -> None:
    status, answer = await api("PATCH", f"/events/{event_id}", {"startDate": "2026-11-22T19:30:00Z"})
    assert status == 200
    assert (answer["id"], answer["startDate"], answer["version"]) == (event_id, "2026-11-22T19:30:00Z", 2)
    assert answer["change"] == {
        "type": "time_change",
        "types": ["time_change"],
        "fields": [
            {
                "field": "startDate",
                "kind": "instant",
                "old": "2026-11-22T18:00:00Z",
                "new": "2026-11-22T19:30:00Z",
            }
        ],
        "priority": "high",
        "significant": True,
    }
    assert isinstance(answer["notification"], dict)
    assert answer["notification"]["status"] == "accepted"
    assert answer["problem"] is None
    assert notifier.codes == ["EVENT_TIME_CHANGE"]


async def test_a_patch_that_changes_nothing_says_so(api: Api, event_id: str) -> None:
    _, answer = await api("PATCH", f"/events/{event_id}", {"venue": "Hall A"})
    assert (answer["change"], answer["notification"], answer["version"]) == (None, None, 1)


async def test_a_failed_notification_is_reported_and_the_update_is_kept(
    api: Api, event_id: str, notifier: "RecordingNotifier"
) -> None:
    notifier.failure = RuntimeError("out of order")
    status, answer = await api("PATCH", f"/events/{event_id}", {"venue": "Hall B"})
    assert (status, answer["venue"], answer["notification"]) == (200, "Hall B", None)
    assert "RuntimeError" in str(answer["problem"])


async def test_publish_twice_and_cancel_twice(api: Api, notifier: "RecordingNotifier") -> None:
    _, event = await api("POST", "/events", EVENT)
    answers = [
        await api("POST", f"/events/{event['id']}/{step}") for step in ("publish", "publish", "cancel", "cancel")
    ]
    assert [status for status, _ in answers] == [200, 200, 200, 409]
    assert answers[0][1]["notification"] is not None
    assert answers[1][1]["notification"] is None
    assert answers[3][1]["code"] == "already_cancelled"
    assert notifier.codes == ["NEW_EVENT", "EVENT_CANCELLATION"]


async def test_tickets_and_favourites_come_and_go(api: Api, event_id: str) -> None:
    for what in ("tickets", "favourites"):
        assert (await api("POST", f"/events/{event_id}/{what}", {"userId": "ana"}))[0] == 201
        assert await api("DELETE", f"/events/{event_id}/{what}", {"userId": "ana"}) == (204, {})
        assert (await api("DELETE", f"/events/{event_id}/{what}", {"userId": "ana"}))[0] == 404
        status, problem = await api("POST", f"/events/{event_id}/{what}", {"userId": "nobody"})
        assert (status, problem["errors"][0]["field"]) == (422, "userId")  # type: ignore[index]  # a list of faults


async def test_the_hosts_message_is_accepted(api: Api, event_id: str, notifier: "RecordingNotifier") -> None:
    status, answer = await api("POST", f"/events/{event_id}/notify", {"title": "Doors", "body": "Open"})
    assert (status, answer["status"]) == (202, "accepted")
    assert notifier.codes == ["EVENT_MANUAL"]


async def test_lists_come_in_pages(api: Api) -> None:
    ids = [(await api("POST", "/events", EVENT))[1]["id"] for _ in range(3)]
    _, first = await api("GET", "/events?limit=2&status=DRAFT")
    _, last = await api("GET", f"/events?limit=2&cursor={first['nextCursor']}")
    shown = [event["id"] for page in (first, last) for event in page["items"]]  # type: ignore[attr-defined]  # JSON
    assert shown == ids[::-1]
    assert last["nextCursor"] is None


@pytest.mark.parametrize(
    ("method", "path", "scopes"),
    [
        ("GET", "/events", "notify"),
        ("GET", "/events/x", "notify"),
        ("POST", "/events", "read"),
        ("PATCH", "/events/x", "read"),
        ("POST", "/events/x/publish", "read"),
        ("POST", "/events/x/cancel", "read"),
        ("POST", "/events/x/notify", "notify read"),
        ("POST", "/events/x/tickets", "read"),
        ("DELETE", "/events/x/tickets", "read"),
        ("POST", "/events/x/favourites", "read"),
        ("DELETE", "/events/x/favourites", "read"),
    ],
)
async def test_each_route_needs_its_scope(api: Api, method: str, path: str, scopes: str) -> None:
    assert (await api(method, path, {}, scopes=scopes))[0] == 403


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/events", b"{", 400),
        ("POST", "/events", b"[]", 422),
        ("POST", "/events", b'{"title": "x", "startDate": "2026-11-22T18:00:00"}', 422),
        ("PATCH", "/events/nope", b'{"title": "x"}', 404),
        ("PATCH", "/events/nope", b'{"titel": "x"}', 422),
        ("GET", "/events/nope", b"", 404),
        ("GET", "/events?limit=0", b"", 422),
        ("GET", "/events?status=active", b"", 422),
        ("POST", "/events/nope/tickets", b'{"userId": "ana"}', 404),
        ("POST", "/events/nope/notify", b'{"title": "x"}', 422),
    ],
)
async def test_bad_input_is_a_problem(api: Api, method: str, path: str, body: bytes, status: int) -> None:
    answered, problem = await api(method, path, raw=body)
    assert answered == status
    assert problem["code"]
    assert problem["detail"]


def test_every_route_is_documented_with_its_body_and_answer(app: FastAPI) -> None:
    description = app.openapi()
    paths, schemas = description["paths"], description["components"]["schemas"]
    without_body = {"/api/events/{event_id}/publish", "/api/events/{event_id}/cancel"}
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert operation["summary"]
            if method != "get":
                assert "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]]
            if method != "get" and path not in without_body:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                assert schemas[schema["$ref"].rpartition("/")[2]]["additionalProperties"] is False
            if method != "delete":
                success = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
                assert success["content"]["application/json"]["schema"]["$ref"]
    assert len(paths) == 7
