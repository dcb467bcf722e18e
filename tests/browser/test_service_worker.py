"""The service worker in Chromium: the notification of a push, and the target of a click."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from playwright.async_api import Page, Worker, expect

if TYPE_CHECKING:
    from tests.browser.conftest import FakeSite

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

Deliver = Callable[[object], Awaitable[None]]

PAYLOAD = {
    "web_push": 8030,
    "notification": {
        "title": "New time",
        "navigate": "/demo/?event=ev-1",
        "body": "Start: 19:00 → 20:00",
        "lang": "en",
        "dir": "ltr",
        "tag": "t-1",
        "data": {"notificationId": "n-1", "deliveryId": "d-1"},
        "actions": [
            {"action": "open", "title": "See the event", "navigate": "/demo/?event=ev-1&from=action"},
            {"action": "bad", "title": "Evil", "navigate": "https://evil.test/"},
        ],
    },
    "app_badge": 2,
}

# Resolves `next` as soon as the worker reports that it showed a notification.
LISTEN = """() => { window.channel = new BroadcastChannel("tidings");
  window.channel.onmessage = ({ data }) => window.tell?.(data.type); }"""
SHOWN = """async () => (await (await navigator.serviceWorker.ready).getNotifications()).map(
  ({ title, body, tag, lang, dir, data, actions }) => ({ title, body, tag, lang, dir, data, actions }))"""


@pytest_asyncio.fixture(loop_scope="module")
async def ready(page: Page, sign_up: Callable[[], Awaitable[None]]) -> Page:
    """Open the signed-in demo page with its worker running."""
    await sign_up()
    await page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    await page.evaluate(LISTEN)
    return page


async def shown(page: Page, deliver: Deliver, payload: object) -> dict[str, object]:
    """Deliver until the notification is listed: headless Chromium does not list every notification it shows."""
    for _ in range(5):
        await page.evaluate("window.next = new Promise((tell) => { window.tell = tell; }); null")
        await deliver(payload)
        await asyncio.wait_for(page.evaluate("next"), 10)
        found: list[dict[str, object]] = await page.evaluate(SHOWN)
        if found:
            return found[-1]
    raise AssertionError("the notification never appeared")


async def worker_of(page: Page) -> Worker:
    """Return this page's service worker."""
    origin = await page.evaluate("location.origin")
    return next(worker for worker in page.context.service_workers if worker.url.startswith(origin))


async def test_a_push_is_shown_with_its_title_body_tag_and_actions(ready: Page, deliver: Deliver) -> None:
    notification = await shown(ready, deliver, PAYLOAD)
    assert notification["title"] == "New time"
    assert notification["body"] == "Start: 19:00 → 20:00"
    assert (notification["tag"], notification["lang"], notification["dir"]) == ("t-1", "en", "ltr")
    actions = notification["actions"]
    assert isinstance(actions, list)
    assert [(one["action"], one["title"]) for one in actions] == [("open", "See the event"), ("bad", "Evil")]


async def test_a_repeated_push_replaces_its_notification(ready: Page, deliver: Deliver) -> None:
    await shown(ready, deliver, PAYLOAD)
    await shown(ready, deliver, PAYLOAD)
    assert len(await ready.evaluate(SHOWN)) == 1


@pytest.mark.parametrize(
    "payload",
    [
        "not json at all",
        "",
        "[]",
        "null",
        "42",
        '{"web_push": 8030}',
        '{"notification": "text"}',
        '{"notification": {"title": 7}}',
        '{"notification": {"title": ""}}',
    ],
)
async def test_a_malformed_payload_still_shows_something(ready: Page, deliver: Deliver, payload: str) -> None:
    notification = await shown(ready, deliver, payload)
    assert notification["title"] == "Something new for you"
    assert notification["body"] == "Open to see what changed."


async def test_invalid_fields_are_ignored_and_the_rest_is_shown(ready: Page, deliver: Deliver) -> None:
    odd = {
        "title": "T" * 1000,
        "body": {"no": "text"},
        "navigate": 7,
        "dir": "sideways",
        "lang": ["en"],
        "renotify": True,  # without a tag this is a TypeError by specification
        "silent": "yes",
        "image": "javascript:alert(1)",
        "actions": [{"action": "a"}, "x", None, {"action": "ok", "title": "Fine"}],
    }
    notification = await shown(ready, deliver, {"web_push": 8030, "notification": odd})
    assert notification["title"] == "T" * 300
    assert notification["body"] == ""
    actions = notification["actions"]
    assert isinstance(actions, list)
    assert [one["title"] for one in actions] == ["Fine"]


@pytest.mark.parametrize("character", ["👩\u200d👩\u200d👧", "🇨🇭", "e\u0301\u0302", "👍🏽"])
async def test_a_long_text_is_cut_between_characters(ready: Page, deliver: Deliver, character: str) -> None:
    long = {"title": "x" + character * 300, "body": character * 2000}
    notification = await shown(ready, deliver, {"web_push": 8030, "notification": long})
    title, body = str(notification["title"]), str(notification["body"])
    assert title == "x" + character * title.count(character)
    assert body == character * body.count(character)
    assert 250 < len(title.encode("utf-16-le")) // 2 <= 300
    assert 1900 < len(body.encode("utf-16-le")) // 2 <= 2000


@pytest.mark.parametrize(
    ("milliseconds", "title", "body"),
    [
        (-1, "An earlier message has expired", "Open to see what is current."),
        (600_000, "New time", "Start: 19:00 → 20:00"),
    ],
    ids=["expired", "current"],
)
async def test_an_expired_message_is_replaced_by_a_neutral_text(
    ready: Page, deliver: Deliver, milliseconds: int, title: str, body: str
) -> None:
    data = {"notificationId": "n-1", "expiresAt": await ready.evaluate("Date.now()") + milliseconds}
    message = {"title": "New time", "body": "Start: 19:00 → 20:00", "navigate": "/demo/", "tag": "t-1", "data": data}
    notification = await shown(ready, deliver, {"web_push": 8030, "notification": message})
    assert (notification["title"], notification["body"]) == (title, body)


async def wait_for_receipts(site: "FakeSite", count: int) -> list[tuple[object, object]]:
    """Return the (event, delivery) of the next calls, once there are `count`."""
    async with asyncio.timeout(10):
        while len(bodies := site.bodies("POST", "/api/push/receipts")) < count:
            await asyncio.sleep(0.02)
    site.calls.clear()
    return [(body["event"], body["deliveryId"]) for body in bodies]


def tracked(delivery: str, *events: str) -> dict[str, object]:
    """Return the data of a message that reports events."""
    data = {"notificationId": "n-1", "deliveryId": delivery, "expiresAt": 4_000_000_000_000}
    return data | {"receipts": {"token": f"token of {delivery}", "events": events}}


async def test_receipts_are_reported_and_repeated_after_an_outage(
    ready: Page, deliver: Deliver, site: "FakeSite"
) -> None:
    def message(delivery: str) -> dict[str, object]:
        return {"web_push": 8030, "notification": {"title": "News", "data": tracked(delivery, "shown", "clicked")}}

    site.refusals["/api/push/receipts"] = (503, {"detail": "busy"})
    await deliver(message("d-1"))
    assert await wait_for_receipts(site, 1) == [("shown", "d-1")]
    del site.refusals["/api/push/receipts"]
    await deliver(message("d-2"))
    assert await wait_for_receipts(site, 2) == [("shown", "d-2"), ("shown", "d-1")]
    await click(ready, tracked("d-2", "shown", "clicked") | {"navigate": "/demo/"}, "open")
    [clicked] = site.bodies("POST", "/api/push/receipts")
    assert clicked == {
        "notificationId": "n-1",
        "deliveryId": "d-2",
        "expiresAt": 4_000_000_000_000,
        "token": "token of d-2",
        "event": "clicked",
        "action": "open",
        "secondsAgo": 0,
    }
    site.calls.clear()
    await click(ready, tracked("d-3", "shown") | {"navigate": "/demo/"})
    assert site.bodies("POST", "/api/push/receipts") == [], "clicks of this message are not tracked"


# A synthetic event cannot extend its lifetime or open windows, so these two calls are recorded instead.
CLICK = """async ([data, action]) => {
  const calls = [];
  let notification;
  while (!notification) {
    await self.registration.showNotification("clicked", { tag: "click", data });
    [notification] = await self.registration.getNotifications({ tag: "click" });
  }
  const opened = self.clients.openWindow;
  const [focus, navigate] = [WindowClient.prototype.focus, WindowClient.prototype.navigate];
  self.clients.openWindow = async (url) => { calls.push(["open", url]); };
  WindowClient.prototype.focus = async function () { calls.push(["focus", this.url]); return this; };
  WindowClient.prototype.navigate = async function (url) { calls.push(["navigate", url]); return this; };
  const event = new NotificationEvent("notificationclick", { notification, action });
  const waits = [];
  event.waitUntil = (promise) => waits.push(promise);
  self.dispatchEvent(event);
  await Promise.all(waits);
  self.clients.openWindow = opened;
  Object.assign(WindowClient.prototype, { focus, navigate });
  return { calls, left: (await self.registration.getNotifications({ tag: "click" })).length };
}"""


async def click(page: Page, data: object, action: str = "") -> list[list[str]]:
    """Click a notification with `data`; return the worker's actions, and check that it closed the notification."""
    worker = await worker_of(page)
    result = await asyncio.wait_for(worker.evaluate(CLICK, [data, action]), 10)
    assert result["left"] == 0
    calls: list[list[str]] = result["calls"]
    return calls


async def test_a_click_focuses_the_window_that_shows_the_target(ready: Page) -> None:
    assert await click(ready, {"navigate": "/demo/"}) == [["focus", ready.url]]


async def test_a_click_navigates_a_window_on_the_same_page(ready: Page) -> None:
    calls = await click(ready, {"navigate": "/demo/?event=ev-2"})
    assert calls == [["focus", ready.url], ["navigate", f"{ready.url}?event=ev-2"]]


async def test_a_click_opens_a_window_when_none_is_on_that_page(ready: Page) -> None:
    assert await click(ready, {"navigate": "/orders/1"}) == [["open", ready.url.replace("/demo/", "/orders/1")]]


async def test_an_action_opens_its_own_target(ready: Page) -> None:
    data = {"navigate": "/demo/", "actions": {"open": "/orders/9"}}
    assert await click(ready, data, "open") == [["open", ready.url.replace("/demo/", "/orders/9")]]


async def test_an_unknown_action_opens_the_notification_s_target(ready: Page) -> None:
    data = {"navigate": "/orders/1", "actions": {}}
    for action in ("constructor", "__proto__", "gone"):
        assert await click(ready, data, action) == [["open", ready.url.replace("/demo/", "/orders/1")]]


MALICIOUS_TARGETS = [
    "javascript:alert(1)",
    "java\nscript:alert(1)",
    " javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "//evil.test/path",
    "///evil.test",
    "/\\evil.test",
    "\\\\evil.test",
    "https://evil.test/",
    "https:evil.test",
    "http://ORIGIN@evil.test/",
    "http://user@ORIGIN/",
    "http://user:pw@ORIGIN/",
    "http://ORIGIN.evil.test/",
    "https://ORIGIN/",
    "blob:http://ORIGIN/5d2f",
    "filesystem:http://ORIGIN/x",
    "ftp://ORIGIN/",
    "file:///etc/passwd",
    "view-source:http://ORIGIN/",
    "intent://evil.test#Intent;scheme=https;end",
    "http://[::1",
    "",
    None,
    7,
    {"href": "https://evil.test"},
]


async def test_malicious_targets_are_never_opened(ready: Page) -> None:
    worker = await worker_of(ready)
    host = ready.url.split("/")[2]
    corpus = [one.replace("ORIGIN", host) if isinstance(one, str) else one for one in MALICIOUS_TARGETS]
    targets = await worker.evaluate("(urls) => urls.map((url) => self.tidingsPush.targetOf(url))", corpus)
    home = f"http://{host}/"
    assert {str(url): target for url, target in zip(corpus, targets, strict=True) if target != home} == {}


RENEW = """async () => {
  const usedKeys = [];
  const { subscribe } = PushManager.prototype;
  PushManager.prototype.subscribe = async (options) => { usedKeys.push(Array.from(options.applicationServerKey)); };
  const event = new Event("pushsubscriptionchange");
  const waits = [];
  event.oldSubscription = { options: { applicationServerKey: Uint8Array.of(4, 1, 2) } };
  event.newSubscription = null;
  event.waitUntil = (promise) => waits.push(promise);
  self.dispatchEvent(event);
  await Promise.all(waits);
  Object.assign(PushManager.prototype, { subscribe });
  return usedKeys;
}"""


async def test_an_expired_subscription_is_renewed_with_its_key_and_reported_by_the_page(
    ready: Page, site: "FakeSite"
) -> None:
    await ready.get_by_role("button", name="Turn on alerts").click()
    await expect(ready.locator("#alerts-signal")).to_have_text("On")
    worker = await worker_of(ready)
    async with ready.expect_response("**/api/push/subscribe"):
        assert await worker.evaluate(RENEW) == [[4, 1, 2]]
    assert len(site.bodies("POST", "/api/push/subscribe")) == 2


async def test_the_worker_handles_no_fetch_events(ready: Page) -> None:
    script = await (await ready.request.get(ready.url.replace("/demo/", "/sw.js"))).text()
    assert 'addEventListener("fetch"' not in script
    assert "onfetch" not in script


async def test_a_malicious_text_is_shown_as_plain_text(ready: Page, deliver: Deliver) -> None:
    text = "<img src=x onerror=\"document.title='owned'\">"
    await shown(ready, deliver, {"notification": {"title": text, "body": text, "navigate": "/"}})
    await ready.get_by_text(text).first.wait_for()
    assert await ready.locator("#inbox img[src=x]").count() == 0
    assert await ready.title() != "owned"
