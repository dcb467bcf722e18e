"""Fixtures of the browser tests: Chromium, a fake Tidings site on loopback, and a stubbed push manager."""

import asyncio
import base64
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, CDPSession, Page, async_playwright
from tests.support.autopush import AutopushServer

from tidings.credentials import mint_api_key

WEB = Path(__file__).parents[2] / "src" / "tidings" / "web"
MIME = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}
# RFC 8292 §2.4 and RFC 8291 appendix A: valid points on the curve.
FIRST_KEY = "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs"
SECOND_KEY = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"

JsonObject = dict[str, object]


def hash_of(endpoint: str) -> str:
    """Return the `endpointHash` of a device."""
    return base64.urlsafe_b64encode(hashlib.sha256(endpoint.encode()).digest()).rstrip(b"=").decode()


def explain_delivered_once() -> JsonObject:
    """Return the server's explanation for a visitor who received the notification on one device."""
    when = "2026-11-22T12:00:01.240Z"
    delivery: JsonObject = {"target": "Chrome on Linux", "state": "delivered", "why": None, "dueAt": when}
    delivery |= {"updatedAt": when, "attempts": [{"finishedAt": when}]}
    answer: JsonObject = {"verdict": "delivered", "sentences": ["u-1 got it on 1 device."]}
    return answer | {"userId": "u-1", "notificationId": "n-1", "deliveries": [delivery], "skips": []}


def build_events() -> list[JsonObject]:
    """Return the events of the fake shop."""
    common: JsonObject = {"status": "ACTIVE", "version": 1, "hostId": "host-1", "endDate": None}
    rows = [
        ("ev-1", "Vinyl & Vermouth", "One turntable, two crates, and a bartender with opinions about both.",
         "2026-12-05T18:00:00+00:00", "Hall 3", "Dock Street 12", "Hamburg"),
        ("ev-2", "Moonlight Swim", "Four bands on the lake stage, a bonfire, and a swim at midnight for the brave.",
         "2026-12-11T19:30:00+00:00", "Lido Stage", "Strandbad 1", "Berlin"),
        ("ev-3", "The Last Understudy", "A comedy about the one person who knows every part.",
         "2026-12-18T19:00:00+00:00", "Old Playhouse", "Market Square", "Bremen"),
    ]  # fmt: skip
    names = ("id", "title", "description", "startDate", "venue", "address", "city")
    return [common | dict(zip(names, row, strict=True)) for row in rows]


@dataclass
class FakeSite:
    """A scripted imitation of what Tidings serves to a browser: static files, push routes, demo routes."""

    origin: str = ""
    public_key: str = FIRST_KEY
    events: list[JsonObject] = field(default_factory=build_events)
    #: (method, path, body, Authorization) of every call under /api and /demo/api
    calls: list[tuple[str, str, JsonObject, str]] = field(default_factory=list)
    #: path → (status, problem) of the next rejected request
    refusals: dict[str, tuple[int, JsonObject]] = field(default_factory=dict)
    #: endpoints that another browser registered with other keys
    taken: set[str] = field(default_factory=set)
    #: endpoint → device, with its user
    devices: dict[str, JsonObject] = field(default_factory=dict)
    polls: int = 0
    explanation: JsonObject = field(default_factory=explain_delivered_once)

    def bodies(self, method: str, path: str) -> list[JsonObject]:
        """Return the bodies of all calls of one route, oldest first."""
        return [body for verb, where, body, _ in self.calls if (verb, where) == (method, path)]

    def end(self, endpoint: str) -> None:
        """Mark an endpoint as after the push service's 410. The browser does not notice."""
        self.devices[endpoint]["state"] = "gone"

    def answer(self, method: str, path: str, body: JsonObject, caller: str = "") -> tuple[int, object]:
        """Return status and JSON of one call. caller: the Authorization header."""
        if path in self.refusals:
            return self.refusals[path]
        parts = path.strip("/").split("/")
        match (method, *parts):
            case ("GET", "api", "push", "public-key"):
                return 200, {"publicKey": self.public_key, "keyId": "k1"}
            case ("POST", "api", "push", "subscribe"):
                return self.register(body, caller)
            case ("POST", "api", "push", "renew"):
                self.devices[str(body["endpoint"])] = self.devices.pop(str(body["replaces"])) | {
                    "endpointHash": hash_of(str(body["endpoint"]))
                }
                return 200, {"id": "d1", "state": "active", "created": False}
            case ("POST", "api", "push", "receipts"):
                return 204, None
            case ("DELETE", "api", "push", "unsubscribe"):
                if self.devices.get(str(body["endpoint"]), {}).get("user") == caller:
                    del self.devices[str(body["endpoint"])]
                return 204, None
            case ("GET", "api", "push", "subscriptions"):
                return 200, {"items": [device for device in self.devices.values() if device["user"] == caller]}
            case _:
                return self.demo(method, parts[2:], body)

    def register(self, body: JsonObject, caller: str) -> tuple[int, object]:
        """Register a browser as the real server does."""
        endpoint = str(body["endpoint"])
        known = self.devices.get(endpoint)
        if endpoint in self.taken:
            return 409, {"detail": "This endpoint belongs to another user.", "code": "endpoint_taken"}
        if known is not None and known["state"] == "gone":
            return 409, {"detail": "The push service ended this subscription.", "code": "subscription_ended"}
        replaced = self.devices.get(str(body.get("replaces")), {})
        if replaced.get("user") == caller:
            del self.devices[str(body["replaces"])]
        device: JsonObject = {"id": "d1", "device": body.get("device"), "host": "push.test", "state": "active"}
        device |= {"endpointHash": hash_of(endpoint), "createdAt": "2026-11-22T10:00:00Z", "user": caller}
        self.devices[endpoint] = device
        is_known = known is not None and known["user"] == caller
        return 200 if is_known else 201, {"id": "d1", "state": "active", "created": not is_known}

    def demo(self, method: str, parts: list[str], body: JsonObject) -> tuple[int, object]:
        """Return status and JSON of one call under /demo/api."""
        match (method, *parts):
            case ("GET", "events"):
                return 200, {"items": self.events}
            case ("POST", "sign-up"):
                event = next((e for e in self.events if e["id"] == body.get("eventId")), self.events[0])
                signed: JsonObject = {"userId": "u-1", "token": "user-token", "expiresAt": "2099-01-01T00:00:00Z"}
                return 201, signed | {"eventId": event["id"], "event": event, "ticket": "active"}
            case ("POST", "events", event_id, "change"):
                return 200, self.changed(event_id, body, "time_change" if "startDate" in body else "venue_change")
            case ("POST", "events", event_id, "cancel"):
                return 200, self.changed(event_id, {"status": "CANCELLED"}, "cancellation")
            case ("POST", "events", _, "reset"):
                self.events = build_events()
                return 200, {}
            case ("GET", "notifications", notification_id):
                return 200, self.progress(notification_id)
            case ("GET", "explain"):
                return 200, self.explanation
            case _:
                return 404, {"title": "Not found", "status": 404, "detail": "no such route", "code": "not_found"}

    def changed(self, event_id: str, patch: JsonObject, kind: str) -> JsonObject:
        """Apply a patch and describe it."""
        event = next(e for e in self.events if e["id"] == event_id)
        fields = [{"field": k, "old": event[k], "new": v} for k, v in patch.items() if event[k] != v]
        event.update(patch)
        self.polls = 0
        if not fields:
            return {"event": event, "change": None, "notification": None}
        change = {"type": kind, "types": [kind], "fields": fields, "significant": True}
        notification = {"id": "019ab3c4-71d2-7e55-9f10-6b2f4c1d8e90", "status": "accepted"}
        return {"event": event, "change": change, "notification": notification}

    def progress(self, notification_id: str) -> JsonObject:
        """Return counts that advance with every poll."""
        self.polls += 1
        done = self.polls >= 4
        delivered = 6842 if done else 2100 * self.polls
        by_state = {"delivered": delivered, "gone": 31} | ({} if done else {"pending": 6873 - delivered - 31})
        counts: JsonObject = {"recipients": 5001, "deliveries": 6873, "skipped": 214, "byState": by_state}
        status = {"id": notification_id, "status": "fanned_out", "finished": done}
        return counts | status


class _Handler(BaseHTTPRequestHandler):
    """Serve one `FakeSite` (set by a subclass) with the headers the real server sends."""

    site: FakeSite
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
        """Keep quiet."""

    def _handle(self) -> None:
        path = self.path.partition("?")[0]
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        if path.startswith(("/api/", "/demo/api/")):
            caller = self.headers.get("Authorization", "")
            self.site.calls.append((self.command, path, body, caller))
            status, answer = self.site.answer(self.command, path, body, caller)
            data = b"" if answer is None else json.dumps(answer).encode()
            self._reply(status, data, "application/json" if status < 400 else "application/problem+json")
            return
        name = "demo/index.html" if path == "/demo/" else path.removeprefix("/web").lstrip("/")
        file = (WEB / name).resolve()
        if file.is_file() and file.is_relative_to(WEB):
            self._reply(200, file.read_bytes(), MIME[file.suffix])
        else:
            self._reply(404, b"", "text/plain")

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815 (http.server's names)

    def _reply(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Service-Worker-Allowed", "/")
        self.send_header("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def site() -> Iterator[FakeSite]:
    """Run a fake site on a new port, so that its origin has no state of other tests."""
    fake = FakeSite()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": fake}))
    fake.origin = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Return Chromium's path, or skip with instructions to install it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    return path


FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chromium(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BrowserContext]:
    """Run one Chromium per test file; a persistent profile, because push needs one."""
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=chromium_path,
            args=FLAGS,
            headless=True,
            locale="en-GB",
            timezone_id="Europe/Berlin",
        )
        yield context
        await context.close()


# Chromium's own subscribe() never settles offline. The stub keeps one subscription per worker scope (that of "/" as
# `localStorage["stub.subscription"]`), survives reloads, and fails the way `localStorage["stub.mode"]` says.
STUB = """
(() => {
  window.stubCalls = 0;
  const bytesOf = (buffer) => Array.from(new Uint8Array(buffer));
  const keyOf = (scope) => `stub.subscription${new URL(scope).pathname}`.replace(/\\/$/, "");
  const revive = (KEY) => {
    const saved = JSON.parse(localStorage.getItem(KEY) ?? "null");
    if (!saved) return null;
    const { endpoint, key } = saved;
    const keys = { p256dh: "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
                   auth: "BTBZMqHH6r4Tts7J_aSIgg" };
    return { endpoint, options: { userVisibleOnly: true, applicationServerKey: Uint8Array.from(key).buffer },
      toJSON: () => ({ endpoint, expirationTime: null, keys }),
      unsubscribe: async () => { localStorage.removeItem(KEY); return true; } };
  };
  const subscribe = async (KEY, options) => {
    window.stubCalls += 1;
    window.stubActive = navigator.userActivation.isActive;
    const mode = localStorage.getItem("stub.mode") ?? "ok";
    if (mode === "hang") return new Promise(() => {});
    if (mode !== "ok") throw new DOMException("stubbed", mode);
    const key = bytesOf(options.applicationServerKey);
    const current = JSON.parse(localStorage.getItem(KEY) ?? "null");
    if (current && String(current.key) !== String(key)) throw new DOMException("other key", "InvalidStateError");
    const endpoint = current?.endpoint ?? `https://push.test/${crypto.randomUUID()}`;
    localStorage.setItem(KEY, JSON.stringify({ endpoint, key }));
    return revive(KEY);
  };
  Object.defineProperty(ServiceWorkerRegistration.prototype, "pushManager", {
    get() {
      const KEY = keyOf(this.scope);
      return { getSubscription: async () => revive(KEY), subscribe: (options) => subscribe(KEY, options) };
    },
  });
})();
"""


@pytest_asyncio.fixture(loop_scope="module")
async def page(chromium: BrowserContext, site: FakeSite) -> AsyncIterator[Page]:
    """Open a tab with notifications granted and push stubbed. Script errors and CSP violations fail the test."""
    await chromium.grant_permissions(["notifications"], origin=site.origin)
    tab = await chromium.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
    await tab.add_init_script(STUB)
    yield tab
    await tab.close()
    assert faults == []


class Deliver(Protocol):
    """Push a payload to the page's worker."""

    async def __call__(self, payload: object) -> None:
        """Deliver a JSON value, or a string unchanged."""


@pytest.fixture
def deliver(page: Page, site: FakeSite) -> Deliver:
    """Return a function that delivers a push to the site's worker directly, without a push service."""
    opened: list[tuple[CDPSession, str]] = []

    async def connect() -> tuple[CDPSession, str]:
        session = await page.context.new_cdp_session(page)
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def on_registrations(event: dict[str, list[dict[str, str]]]) -> None:
            for registration in event["registrations"]:
                if registration["scopeURL"].startswith(site.origin) and not found.done():
                    found.set_result(registration["registrationId"])

        session.on("ServiceWorker.workerRegistrationUpdated", on_registrations)
        await session.send("ServiceWorker.enable")
        return session, await asyncio.wait_for(found, 10)

    async def push(payload: object) -> None:
        if not opened:
            opened.append(await connect())
        session, registration = opened[0]
        data = payload if isinstance(payload, str) else json.dumps(payload)
        target = {"origin": site.origin, "registrationId": registration, "data": data}
        await session.send("ServiceWorker.deliverPushMessage", target)

    return push


@pytest.fixture
def sign_up(page: Page, site: FakeSite) -> Callable[[], Awaitable[None]]:
    """Return a coroutine function that opens the demo page and signs up."""

    async def run() -> None:
        await page.goto(f"{site.origin}/demo/")
        await page.get_by_label("Your name").fill("Ada Lovelace")
        await page.get_by_role("button", name="Get my ticket").click()
        await page.get_by_role("heading", name="Alerts on this device").wait_for()

    return run


@pytest_asyncio.fixture(loop_scope="module")
async def autopush() -> AsyncIterator[AutopushServer]:
    """Run a push service for Firefox."""
    async with AutopushServer() as service:
        yield service


@dataclass(frozen=True)
class TidingsServer:
    """A running Tidings server in a separate process."""

    url: str
    #: an admin API key
    key: str


@pytest_asyncio.fixture(loop_scope="module")
async def tidings_server(autopush: AutopushServer, tmp_path: Path) -> AsyncIterator[TidingsServer]:
    """Run `tidings serve --demo` on a free port, allowed to push to the autopush service."""
    key = mint_api_key().plain
    environment = os.environ | {
        "TIDINGS_DATA_DIR": str(tmp_path / "tidings"),
        "TIDINGS_PUSH_EXTRA_HOSTS": autopush.host,
        "TIDINGS_BOOTSTRAP_KEY": key,
        "TIDINGS_WEBPUSH__TRACK_SHOWN": "EVENT_TIME_CHANGE",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidings.cli", "serve", "--demo", "--port", "0", "--json",
        env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        # One line of JSON announces the URL once the server accepts requests.
        line = await asyncio.wait_for(process.stdout.readline(), 90)
        assert line, "tidings serve exited at once; its messages are above"
        yield TidingsServer(json.loads(line)["url"], key)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
