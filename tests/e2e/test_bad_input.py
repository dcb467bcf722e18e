"""Invalid input: a problem document names the field, nothing is stored, and the server keeps running."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from tests.support.server import ADMIN_KEY, HttpResponse, TidingsServer

from tidings.errors import BackendError
from tidings.mockpush import SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
START = "2030-06-21T19:00:00Z"
EVENT = {"title": "Recital", "startDate": START}
MESSAGE = {"userId": "ana", "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "There"}}
AUTH = "AAAAAAAAAAAAAAAAAAAAAA"
CHOICE = {"preferences": [{"category": "MESSAGE", "channel": "webpush", "enabled": False}]}
#: the right length and format, but not a point on the curve
OFF_CURVE = "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"


@dataclass(frozen=True)
class InvalidRequest:
    """A request that must be rejected."""

    method: str
    path: str
    body: object
    status: int | tuple[int, ...] = 422
    #: fields named in the problem; empty if none
    fields: tuple[str, ...] = ()
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    as_user: bool = False


def event(*blamed: str, **changes: object) -> InvalidRequest:
    return InvalidRequest("POST", "/api/events", {**EVENT, **changes}, fields=blamed)


def message(*blamed: str, **changes: object) -> InvalidRequest:
    body = {name: value for name, value in {**MESSAGE, **changes}.items() if value is not None}
    return InvalidRequest("POST", "/api/notifications", body, fields=blamed)


def options(*blamed: str, **changes: object) -> InvalidRequest:
    return InvalidRequest("POST", "/api/notifications", {**MESSAGE, "options": changes}, fields=blamed)


def user(*blamed: str, **changes: object) -> InvalidRequest:
    return InvalidRequest("PUT", "/api/users/new", changes, fields=blamed)


def subscription(*blamed: str, **changes: object) -> InvalidRequest:
    body = {"endpoint": "https://fcm.googleapis.com/fcm/send/x", "keys": {"p256dh": OFF_CURVE, "auth": AUTH}}
    return InvalidRequest("POST", "/api/push/subscribe", {**body, **changes}, fields=blamed, as_user=True)


def raw(body: bytes, path: str = "/api/notifications", **more: Any) -> InvalidRequest:
    return InvalidRequest("POST", path, body, **{"status": 400, "code": "malformed_json", **more})


def nested(levels: int) -> object:
    return {"not": nested(levels - 1)} if levels else {"kind": "everyone"}


CORPUS = {
    # not JSON
    "an empty body": raw(b""),
    "half a document": raw(b'{"userId": "ana", '),
    "half a document, events": raw(b'{"title": ', "/api/events"),
    "two documents": raw(b"{} {}"),
    "invalid UTF-8": raw(b'{"userId": "\xff\xfe"}'),
    "invalid UTF-8, events": raw(b'{"title": "\xff\xfe"}', "/api/events"),
    "a lone surrogate": raw(b'{"userId": "\\ud800"}'),
    "NaN": raw(b'{"variables": NaN}'),
    "a deep list": raw(b"[" * 100_000 + b"]" * 100_000),
    "a deep object": raw(b'{"a":' * 5_000 + b"1" + b"}" * 5_000),
    "a deep object, events": raw(b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "/api/events", status=(400, 422), code=None),
    "NUL in a string": raw(b'{"userId": "a\\u0000b"}'),
    "NUL in a title": raw(
        b'{"title": "a\\u0000b", "startDate": "2030-06-21T19:00:00Z"}',
        "/api/events",
        status=(400, 422),
        code=None,
    ),
    "a form": raw(
        b"userId=ana",
        status=415,
        code="unsupported_media_type",
        headers={"content-type": "application/x-www-form-urlencoded"},
    ),
    "gzip": raw(b"\x1f\x8b", status=415, code="unsupported_media_type", headers={"content-encoding": "gzip"}),
    "a list": raw(b"[]", status=422, code="invalid"),
    "a string": raw(b'"ana"', status=422, code="invalid"),
    "a huge number": raw(b'{"userId": 1e400}', status=(400, 422), code=None),
    # events
    "no start": InvalidRequest("POST", "/api/events", {"title": "Recital"}, fields=("startDate",)),
    "an end before the start": event("endDate", endDate="2030-06-21T18:00:00Z"),
    "an end at the start": event("endDate", endDate=START),
    "a start without an offset": event("startDate", startDate="2030-06-21T19:00:00"),
    "a start that is no day": event("startDate", startDate="2030-02-30T19:00:00Z"),
    "a start as a number": event("startDate", startDate=1_900_000_000),
    "a start far away": event("startDate", startDate="9999-12-31T23:59:59Z"),
    "a blank title": event("title", title="  "),
    "a title of two lines": event("title", title="Recital\nand more"),
    "a title as a list": event("title", title=["Recital"]),
    "a long title": event("title", title="x" * 201),
    "an unknown status": event("status", status="MAYBE"),
    "an unknown field": event("organiser", organiser="ana"),
    "several at once": event("startDate", "colour", startDate="soon", colour="red"),
    "a ticket for nobody": InvalidRequest(
        "POST", "/api/events/{event}/tickets", {"userId": "nobody"}, fields=("userId",)
    ),
    "a ticket for a number": InvalidRequest("POST", "/api/events/{event}/tickets", {"userId": 7}, fields=("userId",)),
    "a patch with an end before the start": InvalidRequest(
        "PATCH", "/api/events/{event}", {"endDate": "2029-01-01T00:00:00Z"}, fields=("endDate",)
    ),
    "a patch that empties the title": InvalidRequest(
        "PATCH", "/api/events/{event}", {"title": None}, fields=("title",)
    ),
    "an event that is not there": InvalidRequest(
        "PATCH", "/api/events/nothing", {"venue": "Hall"}, 404, code="event_not_found"
    ),
    "an event with a huge id": InvalidRequest("PATCH", "/api/events/" + "9" * 5_000, {"venue": "Hall"}, 404),
    "an event with NUL in its id": InvalidRequest("PATCH", "/api/events/a%00b", {"venue": "Hall"}, fields=("id",)),
    "a NUL in a filter": InvalidRequest(
        "GET", "/api/notifications?category=a%00&userId=%00", None, fields=("category", "userId")
    ),
    "a NUL in a cursor": InvalidRequest("GET", "/api/events?cursor=%00", None, fields=("cursor",)),
    # users
    "an unknown locale": user("locale", locale="xx-YY"),
    "a locale with a path": user("locale", locale="../../etc"),
    "an unknown time zone": user("timezone", timezone="Mars/Olympus"),
    "a time zone with a path": user("timezone", timezone="../../etc/passwd"),
    "a bad e-mail": user("email", email="ana at example"),
    "a bad phone": user("phone", phone="0123"),
    "attributes as a list": user("attributes", attributes=[]),
    "large attributes": user("attributes", attributes={"x": "y" * 20_000}),
    "a user with a huge id": InvalidRequest("PUT", "/api/users/" + "u" * 201, {}, fields=("id",)),
    "a user with NUL in the id": InvalidRequest("PUT", "/api/users/a%00b", {}, fields=("id",)),
    "preferences of nobody": InvalidRequest("PUT", "/api/users/nobody/preferences", CHOICE, 404),
    "an unknown category": InvalidRequest(
        "PUT",
        "/api/users/ana/preferences",
        {"preferences": [{"category": "NOPE", "channel": "webpush", "enabled": False}]},
        fields=("preferences[0].category",),
    ),
    "a mandatory category turned off": InvalidRequest(
        "PUT",
        "/api/users/ana/preferences",
        {"preferences": [{"category": "EVENT_CANCELLATION", "channel": "webpush", "enabled": False}]},
        fields=("preferences[0].enabled",),
    ),
    # notifications
    "an unknown user": message("userId", userId="nobody"),
    "an unknown user in a list": message("userIds", userId=None, userIds=["ana", "nobody"]),
    "a list of numbers": message("userIds[0]", userId=None, userIds=[7]),
    "nobody named": message(userId=None),
    "an unknown template": message("templateCode", templateCode="NOPE"),
    "a variable that is missing": message("variables.body", variables={"title": "Hi"}),
    "large variables": message("variables", variables={"title": "Hi", "body": "x" * 40_000}),
    "an unknown audience": message("audience.kind", userId=None, audience={"kind": "aliens"}),
    "an audience without its argument": message("audience.city", userId=None, audience={"kind": "city"}),
    "a deep audience": message("audience" + ".not" * 12, userId=None, audience=nested(13)),
    "an unknown priority": options("options.priority", priority="whenever"),
    "a negative delay": options("options.delay", delay=-1),
    "a delay for ever": options("options.delay", delay=10**15),
    "a delay as text": options("options.delay", delay="soon"),
    "an end that is over": options("options.expiresAt", expiresAt="2020-01-01T00:00:00Z"),
    "a script to open": options("options.actionUrl", actionUrl="javascript:alert(1)"),
    "another site by a trick": options("options.actionUrl", actionUrl="//evil.example"),
    "an unknown channel": options("options.channels[0]", channels=["pigeon"]),
    "an unknown option": options("options.colour", colour="red"),
    # subscriptions
    "a point off the curve": subscription("keys.p256dh"),
    "a short key": subscription("keys.p256dh", keys={"p256dh": "BAAA", "auth": AUTH}),
    "keys that are no base64": subscription("keys.p256dh", "keys.auth", keys={"p256dh": "???", "auth": "!"}),
    "no keys": subscription("keys", keys=None),
    "an http endpoint": subscription("endpoint", "keys.p256dh", endpoint="http://fcm.googleapis.com/x"),
    "a private endpoint": subscription("endpoint", "keys.p256dh", endpoint="https://192.168.0.1/x"),
    "an endpoint that is long": subscription("endpoint", endpoint="https://fcm.googleapis.com/" + "x" * 3000),
    "an idempotency key that is long": InvalidRequest(
        "POST", "/api/notifications", MESSAGE, fields=("Idempotency-Key",), headers={"Idempotency-Key": "k" * 300}
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def known(server: TidingsServer, push: SpawnedMockPush) -> AsyncIterator[str]:
    """The user and the event that the corpus refers to."""
    await server.expect(201, "PUT", "/api/users/ana", {})
    event: str = (await server.expect(201, "POST", "/api/events", EVENT)).read(Json)["id"]
    yield event
    # after all invalid input the server still works
    device = await push.control.subscription("ana")
    await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token("ana"))
    accepted = (await server.expect(202, "POST", "/api/notifications", MESSAGE)).read(Json)
    assert (await server.wait_until_finished(accepted["id"])).by_state == {"delivered": 1}
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "request_failed" not in log


def rows(server: TidingsServer) -> dict[str, int]:
    """Return table → number of rows, without those that the server's own tasks add."""
    with closing(sqlite3.connect(server.data_dir / "tidings.db")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        names.remove("schedules")
        return {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


@pytest.mark.parametrize("bad", CORPUS.values(), ids=CORPUS.keys())
async def test_an_invalid_request_is_rejected_with_the_field(
    server: TidingsServer, known: str, bad: InvalidRequest
) -> None:
    before = rows(server)
    token = server.user_token("ana") if bad.as_user else ADMIN_KEY
    answer = await server.call(
        bad.method, bad.path.replace("{event}", known), bad.body, token=token, headers=bad.headers
    )
    assert answer.status in (bad.status if isinstance(bad.status, tuple) else (bad.status,)), answer.body[:500]
    problem = _problem(answer)
    assert bad.code in (None, problem["code"])
    assert {one["field"] for one in problem.get("errors", [])} >= set(bad.fields)
    assert rows(server) == before


@pytest.mark.parametrize("path", ["/api/notifications", "/api/events", "/api/users/ana"])
async def test_a_body_of_five_megabytes_is_rejected(server: TidingsServer, known: str, path: str) -> None:
    before = rows(server)
    # the response is sent before the body is read, so a client that is still writing may miss it;
    # `test_api_wire` checks the response
    with suppress(BackendError):
        answer = await server.call("PUT" if "users" in path else "POST", path, b'{"a": "' + b"a" * 5_000_000 + b'"}')
        assert (answer.status, _problem(answer)["code"]) == (413, "too_large")
    assert rows(server) == before


def _problem(answer: HttpResponse) -> Json:
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.read(Json)
    assert problem["status"] == answer.status
    for name in ("type", "title", "detail", "code"):
        assert problem[name]
    # enough to correct the request, not a copy of it
    assert len(answer.body) < 20_000
    return problem


async def test_invalid_lines_do_not_affect_the_others(server: TidingsServer, known: str) -> None:
    lines = b'{"id": "line-1"}\nnonsense\n{"id": "line-3", "locale": "xx-YY"}\n\xff\n{"id": "line-5"}\n'
    answer = await server.expect(
        200, "POST", "/api/users/bulk", lines, headers={"content-type": "application/x-ndjson"}
    )
    results = answer.lines(Json)
    assert [one["status"] for one in results] == ["created", "refused", "refused", "refused", "created"]
    assert [one["line"] for one in results] == [1, 2, 3, 4, 5]
    assert results[2]["error"]["errors"][0]["field"] == "locale"


POST = b"POST /api/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
#: malformed HTTP
WIRE = {
    "nonsense": b"\x00\x01\x02 nonsense\r\n\r\n",
    "a body cut off": POST + b"Content-Length: 100\r\n\r\n{",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a header without end": b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 200_000,
}


@pytest.mark.parametrize("sent", WIRE.values(), ids=WIRE.keys())
async def test_malformed_http_does_no_harm(server: TidingsServer, known: str, sent: bytes) -> None:
    before = rows(server)
    at = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.write(sent)
    writer.write_eof()
    async with asyncio.timeout(20):
        answered = await reader.read()
    writer.close()
    assert answered[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 422", b"HTTP/1.1 431")
    await server.expect(200, "GET", "/health/live", token=None)
    assert rows(server) == before


@pytest.mark.parametrize("title", ["", "  ", None, ["a"], {"a": 1}, True])
async def test_a_message_without_text_is_rejected(server: TidingsServer, title: object) -> None:
    await server.call("PUT", "/api/users/wordless", {})
    wanted = {"userId": "wordless", "templateCode": "MESSAGE", "variables": {"title": title, "body": "There"}}
    problem = (await server.expect(422, "POST", "/api/notifications", wanted)).read(dict[str, Any])
    assert problem["errors"][0]["field"] == "variables"
