"""Tracked links over the API: they redirect to what was signed, and people are counted apart from machines."""

from datetime import timedelta

import pytest
from tests.support.asgi_client import Client

from tidings.channels.email.tracking import MailLink, sign_link
from tidings.errors import BackendError
from tidings.model.ids import new_id

URL = "https://shop.example/orders/1?a=%20&b=2"
FIREFOX = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"}
GMAIL = {"user-agent": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"}


@pytest.fixture(autouse=True)
def _track_a_category(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLICKS", "OPENS"):
        monkeypatch.setenv(f"TIDINGS_EMAIL__TRACK_{name}", "EVENT_MANUAL")


async def build_path(call: Client, delivery_id: str, **changes: object) -> str:
    link = MailLink(delivery_id, "u1", "EVENT_MANUAL", int(call.clock.now().timestamp()))
    secret = call.runtime.settings.secret_key
    return "/l/" + sign_link(secret, MailLink(**{**{n: getattr(link, n) for n in link.__struct_fields__}, **changes}))


async def count(call: Client, delivery_id: str) -> list[tuple[str, str | None, int]]:
    async with call.runtime.store.read_once() as tx:
        events = await call.runtime.store.receipts.page(tx, channel="email", cause=None, before=None, limit=50)
    return sorted((one.cause.value, one.code, one.repeats) for one in events if one.delivery_id == delivery_id)


async def test_c62_a_click_redirects_and_people_are_counted_apart(call: Client) -> None:
    delivery_id = new_id(call.clock.now())
    link = await build_path(call, delivery_id, url=URL, number=1, total=2)
    image = await build_path(call, delivery_id)
    early = await call("GET", link, key=None, headers=FIREFOX)
    assert (early.status, early.headers["location"]) == (302, URL)
    call.clock.time += timedelta(minutes=10)
    for _ in range(2):
        assert (await call("GET", link, key=None, headers=FIREFOX)).status == 302
    opened = await call("GET", image, key=None, headers=GMAIL)
    assert (opened.status, opened.headers["content-type"], opened.headers["cache-control"]) == (
        *(200, "image/gif", "no-store"),
    )
    assert (await call("HEAD", link, key=None, headers=FIREFOX)).status == 302
    assert await count(call, delivery_id) == [
        ("click", "link 1 of 2", 1),
        ("machine_click", "head_request", 0),
        ("machine_click", "too_soon", 0),
        ("machine_open", "mail_proxy", 0),
    ]


async def test_c63_links_of_old_messages_lead_on_after_tracking_was_turned_off(
    call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDINGS_EMAIL__TRACK_CLICKS")
    delivery_id = new_id(call.clock.now())
    reply = await call("GET", await build_path(call, delivery_id, url=URL), key=None, headers=FIREFOX)
    assert (reply.status, await count(call, delivery_id)) == (302, [])


async def test_nothing_is_stored_about_an_erased_user(call: Client) -> None:
    delivery_id = new_id(call.clock.now())
    path = await build_path(call, delivery_id, url=URL, user_id="erased")
    assert (await call("GET", path, key=None, headers=FIREFOX)).status == 302
    assert await count(call, delivery_id) == []


async def test_a_person_reaches_the_destination_without_the_database(
    call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> bool:
        raise BackendError("The database does not respond.")

    monkeypatch.setattr(call.runtime.store.receipts, "add", fail)
    path = await build_path(call, new_id(call.clock.now()), url=URL)
    assert (await call("GET", path, key=None, headers=FIREFOX)).headers["location"] == URL


@pytest.mark.parametrize("token", ["x", "https://evil.example/", "A" * 5000], ids=["short", "a link", "long"])
async def test_c63_there_is_no_redirect_without_a_signature(call: Client, token: str) -> None:
    reply = await call("GET", f"/l/{token}", key=None)
    assert reply.status == 404
    assert "location" not in reply.headers
