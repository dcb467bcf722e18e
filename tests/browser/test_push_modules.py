"""The push modules in isolation, in Chromium: key conversion, device names, error codes, timeout."""

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from playwright.async_api import Page

if TYPE_CHECKING:
    from tests.browser.conftest import FakeSite

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

KEY = "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs"


@pytest_asyncio.fixture(loop_scope="module")
async def opened(page: Page, site: "FakeSite") -> Page:
    """Open a page of the site's origin."""
    await page.goto(f"{site.origin}/demo/")
    return page


async def test_a_key_becomes_65_bytes_with_or_without_padding(opened: Page) -> None:
    keys = await opened.evaluate(
        """async (text) => { const { keyFromText } = await import("/web/push/keys.js");
             return [keyFromText(text), keyFromText(text + "=")].map((key) => [key.length, key[0], key[64]]); }""",
        KEY,
    )
    assert keys == [[65, 4, 0xFB], [65, 4, 0xFB]]


@pytest.mark.parametrize("text", ["", "AAAA", "not a key!", KEY[:-2], "C" + KEY[1:]])
async def test_an_invalid_key_is_rejected(opened: Page, text: str) -> None:
    name = await opened.evaluate(
        """async (text) => { const { keyFromText } = await import("/web/push/keys.js");
             try { keyFromText(text); return null; } catch (error) { return error.name; } }""",
        text,
    )
    assert name == "RangeError"


@pytest.mark.parametrize(
    ("agent", "label"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) Version/17.5 Safari/604.1", "Safari on iPhone"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/17.5 Safari/605.1.15", "Safari on Mac"),
        ("curl/8", "Browser"),
    ],
)
async def test_a_device_has_a_recognisable_name(opened: Page, agent: str, label: str) -> None:
    found = await opened.evaluate(
        'async (agent) => (await import("/web/push/environment.js")).deviceLabel(agent)', agent
    )
    assert found == label


@pytest.mark.parametrize(
    ("name", "permission", "code"),
    [
        ("NotAllowedError", "default", "dismissed"),
        ("NotAllowedError", "denied", "denied"),
        ("InvalidStateError", "granted", "stale-key"),
        ("SecurityError", "default", "private-window"),
        ("AbortError", "granted", "push-service-unavailable"),
        ("AbortError", "denied", "denied"),
        ("NotSupportedError", "granted", "unsupported"),
    ],
)
async def test_browser_errors_are_mapped_to_codes(opened: Page, name: str, permission: str, code: str) -> None:
    found = await opened.evaluate(
        """async ([name, permission]) => { const { explainSubscribeFailure } = await import("/web/push/errors.js");
             return explainSubscribeFailure(new DOMException("x", name), permission).code; }""",
        [name, permission],
    )
    assert found == code


MANAGE = """async (act) => {
  const { PushSubscriptionManager } = await import("/web/push/manager.js");
  const push = new PushSubscriptionManager({ getToken: () => "user-token", timeoutMs: 50 });
  try { await push[act](); return [await push.state(), null]; }
  catch (error) { return [await push.state(), error.code]; }
}"""


async def test_a_subscribe_call_that_never_settles_times_out(opened: Page) -> None:
    await opened.evaluate("localStorage.setItem('stub.mode', 'hang')")
    assert await opened.evaluate(MANAGE, "subscribe") == ["granted-unsubscribed", "timeout"]


async def test_resynchronising_never_subscribes_without_permission(opened: Page, site: "FakeSite") -> None:
    assert await opened.evaluate(MANAGE, "resync") == ["granted-unsubscribed", None]
    assert site.bodies("POST", "/api/push/subscribe") == []


async def test_a_device_unknown_to_the_server_is_not_reported_as_subscribed(opened: Page, site: "FakeSite") -> None:
    site.refusals["/api/push/subscribe"] = (503, {"detail": "busy"})
    assert await opened.evaluate(MANAGE, "subscribe") == ["granted-unsubscribed", "server"]
    del site.refusals["/api/push/subscribe"]
    # The next visit registers the device.
    assert await opened.evaluate(MANAGE, "resync") == ["subscribed", None]


async def test_an_unreadable_server_key_is_reported_as_a_server_error(opened: Page, site: "FakeSite") -> None:
    site.public_key = "AAAA"
    assert await opened.evaluate(MANAGE, "subscribe") == ["granted-unsubscribed", "server"]
