"""Unsubscribe links over the API: they turn off all optional mail of a category, and nothing else."""

from tests.support.asgi_client import Client

from tidings.channels.email.composer import UNSUBSCRIBE_PATH
from tidings.channels.email.unsubscribe import Unsubscription, sign_unsubscription


async def test_c25_a_link_stops_the_category_and_what_was_turned_on_of_it(call: Client) -> None:
    token = sign_unsubscription(call.runtime.settings.secret_key, Unsubscription("u1", "NEW_EVENT"))
    entries = [
        {"category": "NEW_EVENT", "channel": "email", "enabled": True},
        {"category": "NEW_EVENT", "object": "event:9", "enabled": True},
        {"category": "NEW_EVENT", "channel": "webpush", "enabled": True},
    ]
    await call("PUT", "/api/users/u1/preferences", json={"preferences": entries})
    for _ in range(2):
        assert (await call("POST", UNSUBSCRIBE_PATH + token, key=None)).status == 200
    shown = (await call("GET", "/api/users/u1/preferences")).json
    stored = {(one["channel"], one["object"]): one["enabled"] for one in shown["preferences"]}
    assert stored == {
        ("email", None): False,
        ("email", "event:9"): False,
        ("webpush", None): True,
        (None, "event:9"): True,
    }


async def test_c25_a_mandatory_category_stays_on_after_a_link_for_it(call: Client) -> None:
    token = sign_unsubscription(call.runtime.settings.secret_key, Unsubscription("u1", "EVENT_CANCELLATION"))
    assert (await call("POST", UNSUBSCRIBE_PATH + token, key=None)).status == 200
    shown = (await call("GET", "/api/users/u1/preferences")).json
    [category] = [one for one in shown["categories"] if one["code"] == "EVENT_CANCELLATION"]
    assert all(category["channels"].values())
    assert set(category["decidedBy"].values()) == {"mandatory"}
