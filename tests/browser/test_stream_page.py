"""The demo's stream page in Chromium with a real server: viewers come and go, and the host gets an e-mail."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, expect
from tests.browser.test_accessibility import check
from tests.support.cluster import ServerProcess

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SETTINGS = {
    "TIDINGS_STREAM_HEARTBEAT": "0.5",
    # longer than a reload of the page takes on a loaded machine
    "TIDINGS_STREAM_GRACE": "5",
    "WEBSOCKET_PORT": "0",
}


async def test_the_end_of_a_stream_reaches_the_mailbox_of_the_demo_s_host(
    chromium: BrowserContext, tmp_path: Path
) -> None:
    async with ServerProcess("serve", tmp_path / "data", settings=SETTINGS, options=("--demo",)) as server:
        page = await chromium.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if "Security Policy" in line.text else None)
        await page.goto(f"{server.url}/demo/live")
        await expect(page.get_by_role("heading", name="First, a ticket")).to_be_visible()
        await page.get_by_role("link", name="Get a demo ticket").click()
        await page.get_by_label("Your name").fill("Ada Lovelace")
        await page.get_by_role("button", name="Get my ticket").click()
        await page.get_by_role("link", name="Watch the live stream").click()
        state, viewers, log = page.locator("#stream-state"), page.locator("#viewers"), page.locator("#host-log")
        await expect(state).to_have_text("Live", timeout=20_000)
        await expect(viewers).to_have_text("1")
        await page.get_by_role("button", name="Add a viewer").click()
        await expect(viewers).to_have_text("2", timeout=20_000)
        await check(page)
        # the guest ends with the page; the visitor is back within the grace period
        await page.reload()
        await expect(viewers).to_have_text("1", timeout=20_000)
        await page.get_by_role("button", name="Leave the stream").click()
        await expect(page.locator("#countdown")).to_contain_text("unless somebody comes back", timeout=20_000)
        await expect(state).to_have_text("Ended", timeout=30_000)
        await expect(viewers).to_have_text("0")
        await expect(log).to_contain_text("The stream has ended.")
        await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        await page.set_viewport_size({"width": 320, "height": 640})
        await check(page)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320
        assert faults == []
        mailbox = await page.get_by_role("link", name="Open the host’s mailbox").get_attribute("href")
        subject = page.get_by_text("Event Stream Ended - Night of the Small Orchestras")
        async with asyncio.timeout(60):
            await page.goto(f"{server.url}{mailbox}")
            while not await subject.count():
                await asyncio.sleep(0.5)
                await page.reload()
        await expect(subject).to_have_count(1)
        await page.close()
