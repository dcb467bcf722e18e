"""The demo page in Chromium, from sign-up to received notifications; the push manager is stubbed."""

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import Page, expect

if TYPE_CHECKING:
    from tests.browser.conftest import FakeSite, JsonObject

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SignUp = Callable[[], Awaitable[None]]
Deliver = Callable[[object], Awaitable[None]]

SUBSCRIBE = "/api/push/subscribe"


async def turn_on(page: Page) -> None:
    """Click the button that requests permission."""
    await page.get_by_role("button", name="Turn on alerts").click()


async def wait_for_status(page: Page, text: str) -> None:
    """Wait until the status of the alerts panel is `text`."""
    await expect(page.locator("#alerts-signal")).to_have_text(text)


async def test_signing_up_sends_the_browser_s_language_and_time_zone(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    await sign_up()
    expected = {"name": "Ada Lovelace", "locale": "en-GB", "timezone": "Europe/Berlin"}
    assert site.bodies("POST", "/demo/api/sign-up") == [expected]
    await expect(page.locator("#event-title")).to_have_text("Vinyl & Vermouth")
    await expect(page.locator("#event-when")).to_contain_text("Saturday, 5 December 2026")
    await expect(page.locator("#event-when")).to_contain_text("19:00")
    await expect(page.locator("#ticket-state")).to_have_text("Ticket active")


async def test_a_missing_name_is_reported_and_nothing_is_sent(page: Page, site: "FakeSite") -> None:
    await page.goto(f"{site.origin}/demo/")
    await page.get_by_role("button", name="Get my ticket").click()
    await expect(page.get_by_role("alert")).to_contain_text("tell us your name")
    await expect(page.get_by_label("Your name")).to_be_focused()
    assert site.bodies("POST", "/demo/api/sign-up") == []


async def test_a_rejected_sign_up_shows_the_server_s_message(page: Page, site: "FakeSite") -> None:
    site.refusals["/demo/api/sign-up"] = (422, {"title": "Invalid", "detail": "name: at most 80 characters."})
    await page.goto(f"{site.origin}/demo/")
    await page.get_by_label("Your name").fill("Ada")
    await page.get_by_role("button", name="Get my ticket").click()
    await expect(page.get_by_role("alert")).to_have_text("name: at most 80 characters.")


async def test_no_permission_is_requested_before_the_click(page: Page, sign_up: SignUp) -> None:
    await sign_up()
    await wait_for_status(page, "Off")
    assert await page.evaluate("stubCalls") == 0


async def test_turning_on_subscribes_inside_the_click_and_registers_the_device(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    await sign_up()
    await turn_on(page)
    await wait_for_status(page, "On")
    assert await page.evaluate("stubActive") is True
    [body] = site.bodies("POST", SUBSCRIBE)
    assert set(body) == {"endpoint", "expirationTime", "keys", "device", "keyId", "timezone"}
    assert body["device"] == "Chrome on Linux"
    assert next(token for verb, path, _, token in site.calls if path == SUBSCRIBE) == "Bearer user-token"


async def test_a_visit_reports_the_subscription_again(page: Page, site: "FakeSite", sign_up: SignUp) -> None:
    await sign_up()
    await turn_on(page)
    await wait_for_status(page, "On")
    await page.reload()
    await wait_for_status(page, "On")
    first, second = site.bodies("POST", SUBSCRIBE)
    assert first == second


async def test_a_new_server_key_makes_a_new_subscription_that_replaces_the_old(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    await sign_up()
    await turn_on(page)
    await wait_for_status(page, "On")
    site.public_key = "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
    await page.reload()
    await wait_for_status(page, "On")
    first, second = site.bodies("POST", SUBSCRIBE)
    assert second["replaces"] == first["endpoint"]
    assert second["endpoint"] != first["endpoint"]
    assert len(site.devices) == 1


async def test_a_lost_subscription_is_renewed_where_permission_is_granted(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    await sign_up()
    await turn_on(page)
    await wait_for_status(page, "On")
    await page.evaluate("localStorage.removeItem('stub.subscription')")
    await page.reload()
    await wait_for_status(page, "On")
    first, second = site.bodies("POST", SUBSCRIBE)
    assert second["replaces"] == first["endpoint"]


async def test_turning_off_unsubscribes_on_the_server_and_stays_off(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    await sign_up()
    await turn_on(page)
    await wait_for_status(page, "On")
    await page.get_by_role("button", name="Turn off on this device").click()
    await wait_for_status(page, "Off")
    [subscribed] = site.bodies("POST", SUBSCRIBE)
    assert site.bodies("DELETE", "/api/push/unsubscribe") == [{"endpoint": subscribed["endpoint"]}]
    assert await page.evaluate("localStorage.getItem('stub.subscription')") is None
    await page.reload()
    await wait_for_status(page, "Off")
    assert len(site.bodies("POST", SUBSCRIBE)) == 1


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("AbortError", "cannot reach its push service"),
        ("NotSupportedError", "cannot receive push"),
        ("SecurityError", "Private windows"),
    ],
)
async def test_a_failure_shows_its_cause_and_can_be_retried(
    page: Page, sign_up: SignUp, mode: str, sentence: str
) -> None:
    await sign_up()
    await page.evaluate("mode => localStorage.setItem('stub.mode', mode)", mode)
    await turn_on(page)
    await wait_for_status(page, "Did not work")
    await expect(page.locator("#alerts-body")).to_contain_text(sentence)
    await page.evaluate("localStorage.removeItem('stub.mode')")
    await page.get_by_role("button", name="Try again").click()
    await wait_for_status(page, "On")


async def test_the_server_s_message_is_shown_when_it_rejects_the_device(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    await sign_up()
    site.refusals[SUBSCRIBE] = (400, {"detail": "endpoint: push.test is not an allowed push service."})
    await turn_on(page)
    await wait_for_status(page, "Did not work")
    await expect(page.locator("#alerts-body")).to_contain_text("push.test is not an allowed push service")


async def test_blocked_notifications_come_with_steps_to_unblock(page: Page, site: "FakeSite", sign_up: SignUp) -> None:
    session = await page.context.new_cdp_session(page)
    denial = {"permission": {"name": "notifications"}, "setting": "denied", "origin": site.origin}
    await session.send("Browser.setPermission", denial)
    await sign_up()
    await wait_for_status(page, "Blocked")
    await expect(page.locator("#alerts-body ol li")).to_have_count(3)
    await expect(page.get_by_role("button", name="Turn on alerts")).to_have_count(0)


async def test_a_browser_without_push_shows_a_hint(page: Page, sign_up: SignUp) -> None:
    await page.add_init_script("delete window.PushManager")
    await sign_up()
    await wait_for_status(page, "Not available")


async def test_an_iphone_user_is_asked_to_add_the_page_to_the_home_screen(page: Page, sign_up: SignUp) -> None:
    agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Safari/604.1"
    await page.add_init_script(
        f"delete window.PushManager; Object.defineProperty(navigator, 'userAgent', {{ get: () => {agent!r} }})"
    )
    await sign_up()
    await wait_for_status(page, "Needs the Home Screen")
    await expect(page.locator("#alerts-body")).to_contain_text("Add to Home Screen")


async def test_moving_the_start_shows_the_change_the_counts_and_the_reason(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    await sign_up()
    await page.get_by_role("button", name="Start 1 hour later").click()
    await expect(page.locator("#report-signal")).to_have_text("Done")
    [patch] = site.bodies("POST", "/demo/api/events/ev-1/change")
    assert patch == {"startDate": "2026-12-05T19:00:00.000Z"}
    await expect(page.locator("#event-when")).to_contain_text("20:00")
    await expect(page.locator("#event-when del")).to_contain_text("19:00")
    await expect(page.locator(".counts")).to_contain_text("6,842")
    await expect(page.locator(".counts dt")).to_have_text(["People", "Messages delivered", "Not delivered", "Skipped"])
    await expect(page.locator(".why li")).to_have_text(
        ["You hold a ticket, so you were notified.", "Chrome on Linux: accepted by its push service at 13:00:01."]
    )
    await expect(page.locator(".changed del [lang=en-GB]")).to_have_count(1)


async def test_a_visitor_who_received_nothing_sees_the_reason_addressed_to_them(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    site.explanation |= {"verdict": "skipped", "deliveries": [], "skips": [{"reason": "no_device"}]}
    await sign_up()
    await page.get_by_role("button", name="Start 1 hour later").click()
    await expect(page.locator(".why li")).to_have_text(
        ["Nothing was sent to you.", "You had no device with notifications on."]
    )


async def test_the_progress_bar_is_empty_before_the_first_count(page: Page, site: "FakeSite", sign_up: SignUp) -> None:
    nothing: JsonObject = {"id": "n-1", "status": "accepted", "recipients": 0, "deliveries": 0, "skipped": 0}
    nothing |= {"byState": {}, "finished": False}
    await sign_up()
    path = "/demo/api/notifications/019ab3c4-71d2-7e55-9f10-6b2f4c1d8e90"
    site.refusals[path] = (200, nothing)
    await page.get_by_role("button", name="Start 1 hour later").click()
    await expect(page.locator(".counts")).to_contain_text("On the way")
    await expect(page.locator("#report progress")).to_have_js_property("value", 0)
    del site.refusals[path]
    await expect(page.locator("#report progress")).to_have_js_property("value", 1)


async def test_a_start_in_another_year_is_shown_with_it(page: Page, sign_up: SignUp) -> None:
    await page.clock.set_fixed_time("2026-11-22T12:00:00Z")
    await sign_up()
    await page.get_by_label("New start").fill("2027-01-02T19:00")
    await page.get_by_role("button", name="Move").click()
    await expect(page.locator(".changed").get_by_text("2026")).to_have_count(1)
    await expect(page.locator(".changed").get_by_text("2027")).to_have_count(1)


async def test_a_start_in_the_past_is_rejected_with_a_hint(page: Page, site: "FakeSite", sign_up: SignUp) -> None:
    await page.clock.set_fixed_time("2026-11-22T12:00:00Z")
    await sign_up()
    start = page.get_by_label("New start")
    await expect(start).to_have_attribute("min", "2026-11-22T13:00")
    for picked, message in (("2026-11-22T12:59", "already over"), ("", "Pick a day")):
        await start.fill(picked)
        await page.get_by_role("button", name="Move").click()
        await expect(page.locator("#host-problem")).to_contain_text(message)
    assert site.bodies("POST", "/demo/api/events/ev-1/change") == []


async def test_a_picked_time_is_interpreted_in_the_visitor_s_time_zone(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    await page.clock.set_fixed_time("2026-06-01T12:00:00Z")
    await sign_up()
    await page.get_by_label("New start").fill("2026-07-01T21:30")
    await page.get_by_role("button", name="Move").click()
    await expect(page.locator("#event-when")).to_contain_text("21:30")
    assert site.bodies("POST", "/demo/api/events/ev-1/change") == [{"startDate": "2026-07-01T19:30:00.000Z"}]


async def test_an_unchanged_venue_notifies_no_user(page: Page, sign_up: SignUp) -> None:
    await sign_up()
    await page.get_by_role("button", name="Rehouse").click()
    await expect(page.locator("#report-signal")).to_have_text("No message")


async def test_cancelling_asks_for_confirmation_and_then_voids_the_ticket(
    page: Page, site: "FakeSite", sign_up: SignUp
) -> None:
    await sign_up()
    await page.get_by_role("button", name="Cancel the event").click()
    await page.get_by_role("button", name="Keep it").click()
    assert site.bodies("POST", "/demo/api/events/ev-1/cancel") == []
    await page.get_by_role("button", name="Cancel the event").click()
    await page.get_by_role("button", name="Yes, cancel it").click()
    await expect(page.locator("#ticket-state")).to_have_text("Ticket void")
    await page.get_by_role("button", name="Put it all back").click()
    await expect(page.locator("#ticket-state")).to_have_text("Ticket active")


async def test_a_rejected_change_shows_the_server_s_message(page: Page, site: "FakeSite", sign_up: SignUp) -> None:
    await sign_up()
    site.refusals["/demo/api/events/ev-1/change"] = (422, {"detail": "startDate: must lie before endDate."})
    await page.get_by_role("button", name="Start 1 hour later").click()
    await expect(page.locator("#host-problem")).to_have_text("startDate: must lie before endDate.")


async def test_an_expired_session_leads_back_to_sign_up(page: Page, site: "FakeSite", sign_up: SignUp) -> None:
    await sign_up()
    site.refusals["/demo/api/events/ev-1/change"] = (401, {"detail": "The token has expired."})
    await page.get_by_role("button", name="Start 1 hour later").click()
    await expect(page.get_by_role("alert")).to_contain_text("session is over")
    await expect(page.get_by_role("button", name="Get my ticket")).to_be_visible()


async def test_received_notifications_are_listed(page: Page, sign_up: SignUp, deliver: Deliver) -> None:
    await sign_up()
    await page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    notification = {"title": "New time", "body": "19:00 → 20:00", "navigate": "/demo/", "data": {"deliveryId": "d-1"}}
    await deliver({"web_push": 8030, "notification": notification})
    await expect(page.locator("#inbox li")).to_contain_text("New time")
    await deliver({"web_push": 8030, "notification": notification})
    await expect(page.locator("#inbox li")).to_have_count(1)
    await expect(page.locator("#announcer")).to_have_text("Received: New time")


async def test_event_texts_are_rendered_as_plain_text(page: Page, site: "FakeSite", sign_up: SignUp) -> None:
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    site.events[0] |= {"title": attack, "description": attack, "venue": attack}
    await sign_up()
    await expect(page.locator("#event-title")).to_have_text(attack)
    await page.get_by_role("button", name="Start 1 hour later").click()
    await expect(page.locator("#report-signal")).to_have_text("Done")
    assert re.match("Encore", await page.title())
