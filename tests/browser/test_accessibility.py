"""Accessibility: axe-core reports no violation in any state of the demo page, colour scheme or phone width."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from playwright.async_api import Page, expect

if TYPE_CHECKING:
    from tests.browser.conftest import FakeSite

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN = """async (tags) => (await axe.run(document, { runOnly: tags })).violations.map(
  ({ id, impact, nodes }) => [id, impact, nodes.map((node) => node.html.slice(0, 120) + " " + node.failureSummary)])"""

SETTLED = """async () => { await Promise.allSettled(document.getAnimations()
  .filter(({ effect }) => effect.getTiming().iterations !== Infinity).map(({ finished }) => finished)); }"""


async def check(page: Page) -> None:
    """Assert that axe reports no violation."""
    # Contrast is measured after entrance animations have finished.
    await page.evaluate(SETTLED)
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE)
    assert await page.evaluate(RUN, TAGS) == []


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        (1280, "dark"),
        pytest.param(390, "dark", marks=pytest.mark.extended),
        pytest.param(1280, "light", marks=pytest.mark.extended),
    ],
)
async def test_every_state_of_the_page_is_accessible(
    page: Page,
    site: "FakeSite",
    sign_up: Callable[[], Awaitable[None]],
    scheme: Literal["light", "dark"],
    width: int,
) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 900})
    await page.goto(f"{site.origin}/demo/")
    await expect(page.locator("#preview")).to_contain_text("Vinyl")
    await check(page)
    await sign_up()
    await expect(page.locator("#alerts-signal")).to_have_text("Off")
    await check(page)
    await page.get_by_role("button", name="Turn on alerts").click()
    await expect(page.locator("#alerts-signal")).to_have_text("On")
    await page.get_by_role("button", name="Start 1 hour later").click()
    await expect(page.locator("#report-signal")).to_have_text("Done")
    await check(page)
    await page.get_by_role("button", name="Cancel the event").click()
    await check(page)
    await page.get_by_role("button", name="Yes, cancel it").click()
    await expect(page.locator("#stamp")).to_be_visible()
    await check(page)


async def test_no_element_is_wider_than_a_small_phone(
    page: Page, sign_up: Callable[[], Awaitable[None]], site: "FakeSite"
) -> None:
    await page.set_viewport_size({"width": 320, "height": 640})
    await page.goto(f"{site.origin}/demo/")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320
    await sign_up()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320


async def test_the_page_can_be_used_with_the_keyboard_alone(page: Page, site: "FakeSite") -> None:
    await page.goto(f"{site.origin}/demo/")
    await expect(page.locator("#preview")).to_contain_text("Vinyl")
    await page.get_by_label("Your name").focus()
    await page.keyboard.type("Ada")
    await page.keyboard.press("Enter")
    await expect(page.locator("#alerts-signal")).to_have_text("Off")
    turn_on = page.get_by_role("button", name="Turn on alerts")
    for _ in range(6):
        await page.keyboard.press("Tab")
        if await turn_on.evaluate("button => button === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await expect(page.locator("#alerts-signal")).to_have_text("On")
