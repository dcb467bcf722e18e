"""The subscription manager where several users or several worker scopes share a browser, and the renewal by the worker.

Chromium with a stubbed push manager; the site answers as the real server does.
"""

import asyncio
import base64
import hmac
import json
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from playwright.async_api import Page

if TYPE_CHECKING:
    from tests.browser.conftest import FakeSite, JsonObject

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

ON, OFF = "subscribed", "granted-unsubscribed"
SUBSCRIBE, UNSUBSCRIBE = "/api/push/subscribe", "/api/push/unsubscribe"

CALL = """async ([user, act, scope]) => {
  const { PushSubscriptionManager } = await import("/web/push/manager.js");
  const token = `x.${btoa(JSON.stringify({ sub: user }))}.x`;
  const push = new PushSubscriptionManager({ getToken: () => token, scope });
  try { await push[act](); } catch (error) { return error.code; }
  return push.state();
}"""


class Browser:
    """A browser tab in which users act, each call as after a fresh load of the page."""

    def __init__(self, page: Page, site: "FakeSite") -> None:
        self.page = page
        self.site = site

    async def act(self, user: str, act: str, scope: str = "/") -> str:
        """Call a method of the manager as a user; return the state afterwards or the code of the error."""
        result: str = await self.page.evaluate(CALL, [user, act, scope])
        return result

    async def endpoint(self, scope: str = "") -> str | None:
        """Return the endpoint of the browser's own subscription of a scope (its path without the last slash)."""
        saved = await self.page.evaluate("(key) => localStorage.getItem(key)", f"stub.subscription{scope}")
        return None if saved is None else str(json.loads(saved)["endpoint"])

    def rows(self, user: str) -> list[str]:
        """Return the endpoints that the server has for a user."""
        return [endpoint for endpoint, device in self.site.devices.items() if device["user"] == token_of(user)]

    def registrations(self, user: str) -> list["JsonObject"]:
        """Return the bodies of the user's registrations."""
        return [
            body
            for verb, path, body, caller in self.site.calls
            if (verb, path, caller) == ("POST", SUBSCRIBE, token_of(user))
        ]


def token_of(user: str) -> str:
    """Return the Authorization header of a user."""
    return f"Bearer x.{base64.b64encode(json.dumps({'sub': user}, separators=(',', ':')).encode()).decode()}.x"


@pytest_asyncio.fixture(loop_scope="module")
async def browser(page: Page, site: "FakeSite") -> Browser:
    """Open a page of the site's origin."""
    await page.goto(f"{site.origin}/demo/")
    return Browser(page, site)


async def test_a_user_who_did_not_click_is_not_subscribed_by_another_users_subscription(browser: Browser) -> None:
    assert await browser.act("ana", "subscribe") == ON
    anas = await browser.endpoint()
    assert await browser.act("ben", "prepare") == OFF
    assert await browser.act("ben", "resync") == OFF
    assert browser.registrations("ben") == []
    # the browser drops what is sent to Ana, so that Ben does not see it
    assert await browser.endpoint() is None
    # Ana turned notifications on in this browser, so her next visit needs no click
    assert await browser.act("ana", "resync") == ON
    assert browser.rows("ana") == [await browser.endpoint()]
    assert browser.registrations("ana")[-1]["replaces"] == anas


async def test_a_click_of_another_user_makes_a_new_endpoint(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    anas = await browser.endpoint()
    assert await browser.act("ben", "subscribe") == ON
    assert browser.rows("ben") == [await browser.endpoint()]
    assert browser.rows("ben") != [anas]
    assert await browser.act("ana", "prepare") == OFF


async def test_a_choice_belongs_to_the_user_who_made_it(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    assert await browser.act("ana", "unsubscribe") == OFF
    assert await browser.act("ben", "subscribe") == ON
    bens = await browser.endpoint()
    # Ana turned notifications off: neither her visit nor a second stop concerns Ben's subscription at the server
    assert await browser.act("ana", "unsubscribe") == OFF
    assert await browser.endpoint() == bens
    assert await browser.act("ana", "resync") == OFF
    assert (browser.rows("ana"), browser.rows("ben")) == ([], [bens])
    assert await browser.act("ben", "resync") == ON


async def test_signing_out_detaches_the_user_until_the_next_visit(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    assert await browser.act("ana", "signOut") == OFF
    assert (browser.rows("ana"), await browser.endpoint()) == ([], None)
    assert await browser.act("ben", "resync") == OFF
    assert browser.registrations("ben") == []
    assert await browser.act("ana", "resync") == ON
    assert browser.rows("ana") == [await browser.endpoint()]


async def test_signing_out_detaches_the_browser_also_without_the_server(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    browser.site.refusals[UNSUBSCRIBE] = (503, {"detail": "busy"})
    assert await browser.act("ana", "signOut") == "server"
    assert await browser.endpoint() is None
    assert await browser.act("ana", "prepare") == OFF


async def test_signing_out_closes_what_is_shown(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    shown = """async () => { const ready = await navigator.serviceWorker.ready;
      for (let all = []; all.length === 0; all = await ready.getNotifications()) {
        await ready.showNotification("private", { tag: "t", data: { deliveryId: "d" } });
      } return (await ready.getNotifications()).length; }"""
    assert await browser.page.evaluate(shown) == 1
    await browser.act("ana", "signOut")
    left = "navigator.serviceWorker.ready.then((ready) => ready.getNotifications()).then((all) => all.length)"
    assert await browser.page.evaluate(left) == 0


async def test_each_worker_scope_has_its_own_choice_and_endpoint(browser: Browser) -> None:
    app = "/demo/app/"
    await browser.act("ana", "subscribe")
    assert await browser.act("ana", "resync", app) == OFF
    assert len(browser.rows("ana")) == 1
    assert await browser.act("ana", "subscribe", app) == ON
    both = [await browser.endpoint(), await browser.endpoint("/demo/app")]
    for _ in range(2):
        assert [await browser.act("ana", "resync", scope) for scope in ("/", app)] == [ON, ON]
    assert browser.rows("ana") == both
    assert not any("replaces" in body for body in browser.registrations("ana"))


async def test_a_stop_in_one_scope_ends_the_users_messages_in_all(browser: Browser) -> None:
    app = "/demo/app/"
    for scope in ("/", app):
        assert await browser.act("ana", "subscribe", scope) == ON
    assert await browser.act("ana", "unsubscribe", app) == OFF
    assert [await browser.endpoint(), await browser.endpoint("/demo/app")] == [None, None]
    assert [await browser.act("ana", "resync", scope) for scope in ("/", app)] == [OFF, OFF]
    assert browser.rows("ana") == []


async def test_a_stop_keeps_another_users_subscription_of_another_scope(browser: Browser) -> None:
    app = "/demo/app/"
    await browser.act("ana", "subscribe")
    assert await browser.act("ben", "subscribe", app) == ON
    await browser.act("ana", "unsubscribe")
    assert browser.rows("ben") == [await browser.endpoint("/demo/app")]
    assert await browser.act("ben", "resync", app) == ON


@pytest.mark.parametrize("act", ["resync", "subscribe"])
async def test_a_subscription_that_ended_at_the_server_is_renewed(browser: Browser, act: str) -> None:
    await browser.act("ana", "subscribe")
    dead = await browser.endpoint()
    assert dead is not None
    browser.site.end(dead)
    assert await browser.act("ana", "prepare") == OFF
    assert await browser.act("ana", act) == ON
    assert browser.rows("ana") == [await browser.endpoint()]
    assert browser.rows("ana") != [dead]
    assert browser.registrations("ana")[-1]["replaces"] == dead


async def test_an_endpoint_that_belongs_to_another_browser_is_replaced(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    taken = await browser.endpoint()
    assert taken is not None
    browser.site.taken.add(taken)
    assert await browser.act("ana", "resync") == ON
    assert browser.rows("ana") == [await browser.endpoint()]


async def test_a_subscription_that_the_server_lost_is_renewed(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    lost = await browser.endpoint()
    # deleted a day after its end, or the database was restored: its endpoint may be dead
    browser.site.devices.clear()
    assert await browser.act("ana", "prepare") == OFF
    assert await browser.act("ana", "resync") == ON
    assert browser.rows("ana") == [await browser.endpoint()]
    assert browser.rows("ana") != [lost]


async def test_a_subscription_without_a_memory_belongs_to_whom_the_server_says(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    await browser.page.evaluate("new Promise((done) => { indexedDB.deleteDatabase('tidings-push').onsuccess = done; })")
    assert await browser.act("ana", "resync") == ON
    assert len(browser.rows("ana")) == 1
    await browser.page.evaluate("new Promise((done) => { indexedDB.deleteDatabase('tidings-push').onsuccess = done; })")
    assert await browser.act("ben", "resync") == OFF
    assert (browser.registrations("ben"), await browser.endpoint()) == ([], None)


# The worker's own subscribe() would never settle here. `old` is what the event names: browsers may name nothing.
ROTATE = """async ([endpoint, old]) => {
  const { subscribe } = PushManager.prototype;
  const keys = { p256dh: "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs",
                 auth: "AAECAwQFBgcICQoLDA0ODw" };
  const fresh = { endpoint, toJSON: () => ({ endpoint, expirationTime: null, keys }) };
  PushManager.prototype.subscribe = async () => fresh;
  const event = new Event("pushsubscriptionchange");
  event.oldSubscription = old;
  event.newSubscription = null;
  const waits = [];
  event.waitUntil = (promise) => waits.push(promise);
  self.dispatchEvent(event);
  await Promise.all(waits);
  Object.assign(PushManager.prototype, { subscribe });
}"""


async def rotate(browser: Browser, endpoint: str) -> None:
    """Let the worker of the page hear that its subscription changed."""
    origin = browser.site.origin
    worker = next(one for one in browser.page.context.service_workers if one.url.startswith(origin))
    await asyncio.wait_for(worker.evaluate(ROTATE, [endpoint, None]), 10)


async def test_the_worker_renews_a_rotated_subscription_with_a_proof(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    old = await browser.endpoint()
    assert old is not None
    new = "https://push.test/rotated"
    await rotate(browser, new)
    [(body, caller)] = [(body, caller) for _, path, body, caller in browser.site.calls if path == "/api/push/renew"]
    assert caller == ""
    keys = body["keys"]
    assert isinstance(keys, dict)
    # the stub's secret of the old subscription
    secret = base64.urlsafe_b64decode("BTBZMqHH6r4Tts7J_aSIgg==")
    key = HKDF(algorithm=SHA256(), length=32, salt=b"", info=b"tidings push renewal v1").derive(secret)
    proof = hmac.digest(key, "\n".join([old, new, keys["p256dh"], keys["auth"]]).encode(), "sha256")
    assert body["proof"] == base64.urlsafe_b64encode(proof).rstrip(b"=").decode()
    assert body["replaces"] == old
    assert browser.rows("ana") == [new]


async def test_the_worker_subscribes_nobody_after_a_stop(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    await browser.act("ana", "unsubscribe")
    await rotate(browser, "https://push.test/rotated")
    assert browser.site.bodies("POST", "/api/push/renew") == []
    assert await browser.act("ana", "resync") == OFF


async def test_the_worker_repeats_a_renewal_that_the_server_could_not_take(browser: Browser) -> None:
    await browser.act("ana", "subscribe")
    browser.site.refusals["/api/push/renew"] = (503, {"detail": "busy"})
    rotating = asyncio.create_task(rotate(browser, "https://push.test/rotated"))
    async with asyncio.timeout(5):
        while not browser.site.bodies("POST", "/api/push/renew"):
            await browser.page.evaluate("new Promise(requestAnimationFrame)")
    del browser.site.refusals["/api/push/renew"]
    await rotating
    assert browser.rows("ana") == ["https://push.test/rotated"]
