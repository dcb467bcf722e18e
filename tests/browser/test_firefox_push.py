"""Firefox end to end: it subscribes, receives a push, decrypts it and shows the notification.

The only substitute is `tests.support.autopush` in place of Mozilla's service. Firefox reports in its acknowledgement
whether it could decrypt the message (100) or not (101).
"""

import asyncio
import base64
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import http_ece
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02
from tests.support.autopush import ACK_DELIVERED, AutopushServer
from websockets.asyncio.client import ClientConnection, connect

if TYPE_CHECKING:
    from tests.browser.conftest import FakeSite, TidingsServer

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

Json = dict[str, object]

LISTENING = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")


class Firefox:
    """One tab of a Firefox, driven over WebDriver BiDi."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.context = ""
        self._last = 0

    async def call(self, method: str, **params: object) -> dict[str, object]:
        """Send one command and return its result."""
        self._last += 1
        await self.socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        async for text in self.socket:
            message: dict[str, object] = json.loads(text)
            if message.get("id") == self._last:
                assert message["type"] == "success", message
                result = message["result"]
                assert isinstance(result, dict)
                return result
        raise AssertionError("Firefox went away")

    async def open(self) -> Self:
        """Start the session and take the first tab."""
        await self.call("session.new", capabilities={})
        tree = await self.call("browsingContext.getTree")
        contexts = tree["contexts"]
        assert isinstance(contexts, list)
        self.context = contexts[0]["context"]
        return self

    async def go(self, url: str) -> None:
        """Navigate and wait for the load."""
        await self.call("browsingContext.navigate", context=self.context, url=url, wait="complete")

    async def run(self, expression: str) -> object:
        """Return the JSON value of a (promised) expression in the page."""
        wrapped = f"Promise.resolve({expression}).then((value) => JSON.stringify(value) ?? 'null')"
        answer = await self.call(
            "script.evaluate", expression=wrapped, target={"context": self.context}, awaitPromise=True
        )
        result = answer.get("result")
        assert isinstance(result, dict), answer
        return json.loads(result["value"])

    async def until(self, condition: str, seconds: float = 20) -> None:
        """Wait until a condition on the page's content holds."""
        watch = f"""new Promise((resolve) => {{
            const look = () => {{ if ({condition}) {{ watcher.disconnect(); resolve(true); }} }};
            const watcher = new MutationObserver(look);
            watcher.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
            look();
        }})"""
        async with asyncio.timeout(seconds):
            await self.run(watch)

    async def click(self, selector: str) -> None:
        """Click with a real pointer: only such a click may open a permission prompt."""
        await self._displayed(selector)
        found = await self.call(
            "browsingContext.locateNodes", context=self.context, locator={"type": "css", "value": selector}
        )
        nodes = found["nodes"]
        assert isinstance(nodes, list)
        await self.run(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{ block: 'center', behavior: 'instant' }})"
        )
        origin = {"type": "element", "element": {"sharedId": nodes[0]["sharedId"]}}
        moves = [
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        await self.call(
            "input.performActions", context=self.context, actions=[{"type": "pointer", "id": "mouse", "actions": moves}]
        )

    async def _displayed(self, selector: str, seconds: float = 20) -> None:
        """Wait until an element is laid out: at the load event its style sheet may not have been applied."""
        there = f"document.querySelector({json.dumps(selector)})?.getClientRects().length"
        async with asyncio.timeout(seconds):
            await self.run(
                f"new Promise((resolve) => {{ const look = () => {there} ? resolve(true) : requestAnimationFrame(look);"
                " look(); })"
            )

    async def notifications(self) -> list[dict[str, object]]:
        """Return the worker's notifications once the page has received one; the acknowledgement may arrive earlier."""
        await self.until("document.querySelectorAll('#inbox li').length === 1")
        shown = await self.run(
            "navigator.serviceWorker.ready.then((ready) => ready.getNotifications())"
            ".then((all) => all.map(({ title, body, tag, data }) => ({ title, body, tag, data })))"
        )
        assert isinstance(shown, list)
        return shown


@asynccontextmanager
async def firefox_at(push_url: str, profile: Path) -> AsyncIterator[Firefox]:
    """Run a headless Firefox that uses the push service at `push_url`."""
    path = shutil.which("firefox-esr") or shutil.which("firefox")
    if path is None:
        pytest.skip("Firefox is not installed (Debian: apt-get install firefox-esr)")
    preferences: dict[str, object] = {
        "dom.push.serverURL": push_url,
        "dom.push.testing.allowInsecureServerURL": True,
        "dom.push.connection.enabled": True,
        "dom.push.retryBaseInterval": 100,
        "dom.serviceWorkers.testing.enabled": True,
        "permissions.default.desktop-notification": 1,
        "alerts.useSystemBackend": False,
        "browser.shell.checkDefaultBrowser": False,
        "datareporting.policy.dataSubmissionEnabled": False,
        "app.update.enabled": False,
    }
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in preferences.items()]
    (profile / "user.js").write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(
        path, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0",
        "--remote-allow-origins", "*", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    drain: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(60):
            while (match := LISTENING.search(await process.stderr.readline())) is None:
                assert process.returncode is None, "Firefox exited at once"
        drain = asyncio.create_task(process.stderr.read())
        async with connect(f"{match[1].decode()}/session", max_size=None) as socket:
            yield await Firefox(socket).open()
    finally:
        process.terminate()
        await process.wait()
        if drain is not None:
            await drain


@pytest_asyncio.fixture(loop_scope="module")
async def firefox(autopush: AutopushServer, tmp_path: Path) -> AsyncIterator[Firefox]:
    """Run a Firefox that uses the `autopush` service."""
    async with firefox_at(autopush.websocket_url, tmp_path) as browser:
        yield browser


async def subscribe_on_demo_page(firefox: Firefox, url: str) -> None:
    """Sign up on the demo page and turn on alerts."""
    await firefox.go(f"{url}/demo/")
    await firefox.run("document.querySelector('#name').value = 'Ada'")
    await firefox.click("#sign-up button")
    await firefox.until("document.querySelector('#alerts-signal').textContent === 'Off'")
    await firefox.click("#alerts-body .button")
    await firefox.until("['On', 'Did not work'].includes(document.querySelector('#alerts-signal').textContent)")
    assert await firefox.run("document.querySelector('#alerts-signal').textContent") == "On", await firefox.run(
        "document.querySelector('#alerts-body').textContent"
    )


async def call(method: str, url: str, body: object, token: str) -> dict[str, object]:
    """Call the API; return the JSON answer."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)

    def send() -> bytes:
        with urllib.request.urlopen(request, timeout=15) as answer:
            data: bytes = answer.read()
            return data

    parsed: dict[str, object] = json.loads(await asyncio.to_thread(send))
    return parsed


async def test_an_event_moved_over_the_api_reaches_the_subscribed_firefox(
    autopush: AutopushServer, firefox: Firefox, tidings_server: "TidingsServer"
) -> None:
    url, key = tidings_server.url, tidings_server.key
    await subscribe_on_demo_page(firefox, url)
    listing = await call("GET", f"{url}/demo/api/events", None, key)
    items = listing["items"]
    assert isinstance(items, list)
    event = items[0]
    patch = {"startDate": "2031-06-21T20:30:00+02:00", "endDate": "2031-06-21T23:30:00+02:00"}
    answer = await call("PATCH", f"{url}/api/events/{event['id']}", patch, key)
    assert answer["notification"] is not None

    [acknowledgement] = await autopush.wait_for_acknowledgements(1, 30)
    assert acknowledgement.code == ACK_DELIVERED
    assert autopush.refusals == []

    [notification] = await firefox.notifications()
    assert event["title"] in str(notification["title"])
    assert "2031" in str(notification["body"])
    data = notification["data"]
    assert isinstance(data, dict)
    assert event["id"] in data["navigate"]
    [receipt] = await wait_for_receipts(tidings_server)
    assert (receipt["deliveryId"], receipt["status"]) == (data["deliveryId"], "delivered")


async def wait_for_receipts(server: "TidingsServer") -> list[Json]:
    """Poll until the service worker has reported what it showed, at most 10 s, and return what it reported."""
    async with asyncio.timeout(10):
        while True:
            found = await call("GET", f"{server.url}/api/provider-events?channel=webpush", None, server.key)
            items = found["items"]
            assert isinstance(items, list)
            if items:
                return items
            await asyncio.sleep(0.1)


async def notify(server: "TidingsServer", user_id: str) -> None:
    """Send a message to a user."""
    wanted = {"userId": user_id, "templateCode": "MESSAGE", "variables": {"title": "News", "body": "for you"}}
    await call("POST", f"{server.url}/api/notifications", wanted, server.key)


async def wait_for_devices(server: "TidingsServer", token: str, wanted: Callable[[list[Json]], bool]) -> list[Json]:
    """Poll until the user's list of devices fulfils a condition, at most 10 s, and return it."""
    async with asyncio.timeout(10):
        while not wanted(items := await list_devices(server, token)):
            await asyncio.sleep(0.1)
    return items


async def list_devices(server: "TidingsServer", token: str) -> list[Json]:
    """Return the user's devices."""
    items = (await call("GET", f"{server.url}/api/push/subscriptions", None, token))["items"]
    assert isinstance(items, list)
    return items


async def test_an_ended_subscription_is_renewed_by_a_visit_and_a_rotated_one_without_a_page(
    autopush: AutopushServer, firefox: Firefox, tidings_server: "TidingsServer"
) -> None:
    await subscribe_on_demo_page(firefox, tidings_server.url)
    session = await firefox.run("JSON.parse(localStorage.getItem('tidings.demo'))")
    assert isinstance(session, dict)
    token, user_id = session["token"], session["userId"]
    [first] = await list_devices(tidings_server, token)

    # the push service ends the subscription, and the browser does not notice
    autopush.end_subscriptions()
    await notify(tidings_server, user_id)
    await wait_for_devices(tidings_server, token, lambda items: [one["state"] for one in items] == ["gone"])
    await firefox.go(f"{tidings_server.url}/demo/")
    await firefox.until("document.querySelector('#alerts-signal').textContent === 'On'")
    [second] = await list_devices(tidings_server, token)
    assert (second["id"], second["state"]) == (first["id"], "active")
    assert second["endpointHash"] != first["endpointHash"]
    await notify(tidings_server, user_id)
    [acknowledgement] = await autopush.wait_for_acknowledgements(1, 20)
    assert acknowledgement.code == ACK_DELIVERED

    # the push service replaces the subscription while no page of the site is open
    await firefox.go("about:blank")
    await autopush.rotate_subscriptions()
    [third] = await wait_for_devices(
        tidings_server, token, lambda items: items[0]["endpointHash"] != second["endpointHash"]
    )
    assert (third["id"], third["state"]) == (first["id"], "active")
    await notify(tidings_server, user_id)
    [_, acknowledgement] = await autopush.wait_for_acknowledgements(2, 20)
    assert acknowledgement.code == ACK_DELIVERED


ACT = """(async ([token, act, scope]) => {
  const { PushSubscriptionManager } = await import("/web/push/manager.js");
  const push = new PushSubscriptionManager({ getToken: () => token, scope });
  await push[act]();
  return push.state();
})"""


async def end_of(server: "TidingsServer", user_id: str) -> dict[str, int]:
    """Send a message to a user, wait for its end and return how many deliveries ended in each state."""
    wanted = {"userId": user_id, "templateCode": "MESSAGE", "variables": {"title": "News", "body": "for you"}}
    accepted = await call("POST", f"{server.url}/api/notifications", wanted, server.key)
    async with asyncio.timeout(20):
        while True:
            found = await call("GET", f"{server.url}/api/notifications/{accepted['id']}", None, server.key)
            states = found["byState"]
            assert isinstance(states, dict)
            if found["status"] == "fanned_out" and not {"pending", "sending"} & states.keys():
                return states
            await asyncio.sleep(0.1)


@pytest.mark.extended
async def test_two_users_and_two_worker_scopes_share_a_firefox(
    autopush: AutopushServer, firefox: Firefox, tidings_server: "TidingsServer"
) -> None:
    url, key = tidings_server.url, tidings_server.key
    tokens = {}
    for name in ("ana", "ben"):
        await call("PUT", f"{url}/api/users/{name}", {}, key)
        tokens[name] = (await call("POST", f"{url}/api/users/{name}/token", {}, key))["token"]
    await firefox.go(f"{url}/demo/")

    async def act(user: str, method: str, scope: str = "/") -> object:
        return await firefox.run(f"{ACT}({json.dumps([tokens[user], method, scope])})")

    async def active_devices(user: str) -> int:
        return [one["state"] for one in await list_devices(tidings_server, str(tokens[user]))].count("active")

    app = "/demo/app/"
    assert [await act("ana", "subscribe", scope) for scope in ("/", app)] == ["subscribed", "subscribed"]
    assert [await act("ana", "resync", scope) for scope in ("/", app, "/", app)] == ["subscribed"] * 4
    assert await active_devices("ana") == 2
    assert await end_of(tidings_server, "ana") == {"delivered": 2}
    assert len(await autopush.wait_for_acknowledgements(2, 20)) == 2

    # Ben signs in to the outer scope and does not click
    assert await act("ben", "resync") == "granted-unsubscribed"
    assert await active_devices("ben") == 0
    assert await end_of(tidings_server, "ana") == {"delivered": 1, "gone": 1}
    # he clicks, Ana turns notifications off: his subscription stays, and hers end in both scopes
    assert await act("ben", "subscribe") == "subscribed"
    assert await act("ana", "unsubscribe", app) == "granted-unsubscribed"
    assert await active_devices("ana") == 0
    assert await end_of(tidings_server, "ben") == {"delivered": 1}
    # her next visit subscribes nobody; after signing out Ben receives nothing until he is back
    assert [await act("ana", "resync", scope) for scope in ("/", app)] == ["granted-unsubscribed"] * 2
    assert await active_devices("ana") == 0
    assert await act("ben", "resync") == "subscribed"
    assert await act("ben", "signOut") == "granted-unsubscribed"
    assert await active_devices("ben") == 0
    assert await act("ben", "resync") == "subscribed"
    assert await end_of(tidings_server, "ben") == {"delivered": 1}
    acknowledgements = await autopush.wait_for_acknowledgements(5, 20)
    assert [one.code for one in acknowledgements] == [ACK_DELIVERED] * 5


def base64url(data: bytes) -> str:
    """Return unpadded base64url text."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Sender:
    """An independent application server, built from third-party libraries, with its own key."""

    def __init__(self) -> None:
        self.vapid = Vapid02()
        self.vapid.generate_keys()

    @property
    def public_key(self) -> str:
        """Return the key that browsers subscribe with."""
        return base64url(self.vapid.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))

    async def push(self, subscription: dict[str, object], payload: bytes, *, spoil: bool = False) -> int:
        """Encrypt, sign and post; return the status."""
        endpoint, keys = subscription["endpoint"], subscription["keys"]
        assert isinstance(endpoint, str)
        assert isinstance(keys, dict)
        auth = base64.urlsafe_b64decode(keys["auth"] + "==")
        receiver = base64.urlsafe_b64decode(keys["p256dh"] + "=")
        key = ec.generate_private_key(ec.SECP256R1())
        body = http_ece.encrypt(
            payload, private_key=key, dh=receiver, auth_secret=auth[::-1] if spoil else auth, version="aes128gcm"
        )
        origin = "/".join(endpoint.split("/")[:3])
        claims = {"aud": origin, "exp": int(time.time()) + 600, "sub": "mailto:push@example.com"}
        headers = self.vapid.sign(claims) | {"TTL": "60", "Content-Encoding": "aes128gcm"}
        request = urllib.request.Request(endpoint, body, headers, method="POST")

        def send() -> int:
            try:
                with urllib.request.urlopen(request, timeout=15) as answer:
                    status: int = answer.status
                    return status
            except urllib.error.HTTPError as error:
                error.close()
                return error.code

        return await asyncio.to_thread(send)


async def test_firefox_accepts_valid_and_reports_invalid_messages_of_other_libraries(
    autopush: AutopushServer, firefox: Firefox, site: "FakeSite"
) -> None:
    sender = Sender()
    site.public_key = sender.public_key
    await subscribe_on_demo_page(firefox, site.origin)
    [subscription] = site.bodies("POST", "/api/push/subscribe")
    payload = json.dumps({"web_push": 8030, "notification": {"title": "Hello", "body": "there", "navigate": "/x"}})

    assert await Sender().push(subscription, payload.encode()) == 401
    assert await sender.push(subscription, payload.encode()) == 201
    [good] = await autopush.wait_for_acknowledgements(1, 20)
    assert good.code == ACK_DELIVERED
    [notification] = await firefox.notifications()
    assert (notification["title"], notification["body"]) == ("Hello", "there")

    assert await sender.push(subscription, payload.encode(), spoil=True) == 201
    [_, bad] = await autopush.wait_for_acknowledgements(2, 20)
    assert bad.code == 101
