"""Rate limits per caller."""

from ipaddress import ip_network
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from tidings.api.app import create_app
from tidings.api.http.rate_limit import client_key
from tidings.ports.rate_limits import RateLimit
from tidings.rate_limits import memory_rate_limiter
from tidings.rate_limits.memory_rate_limiter import GcraLimiter


def test_an_idle_caller_may_use_the_whole_burst_and_then_waits() -> None:
    bucket = GcraLimiter(RateLimit(3, 60))
    rooms = [bucket.consume("a", 1000.0) for _ in range(4)]
    assert [room.is_allowed for room in rooms] == [True, True, True, False]
    assert [room.remaining for room in rooms] == [2, 1, 0, 0]
    assert rooms[3].retry_after == pytest.approx(20)


def test_capacity_is_restored_at_the_rate() -> None:
    bucket = GcraLimiter(RateLimit(3, 60))
    for _ in range(3):
        bucket.consume("a", 1000.0)
    assert not bucket.consume("a", 1019.9).is_allowed
    assert bucket.consume("a", 1020.1).is_allowed
    assert not bucket.consume("a", 1020.1).is_allowed


def test_callers_have_separate_limits() -> None:
    bucket = GcraLimiter(RateLimit(1, 60))
    assert bucket.consume("a", 0.0).is_allowed
    assert bucket.consume("b", 0.0).is_allowed


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_rate_limiter, "MAX_KEYS", 10)
    bucket = GcraLimiter(RateLimit(1, 60))
    for number in range(100):
        bucket.consume(str(number), 0.0)
    assert len(bucket._arrival_times) == 10


PROXIES = tuple(ip_network(entry) for entry in ("127.0.0.1", "10.0.0.0/8", "fd00::/8"))


def _from(host: str, *forwarded: str, trusted: Any = ()) -> str:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return client_key(Request({"type": "http", "client": (host, 1), "headers": headers}), trusted)


def test_all_addresses_of_one_ipv6_network_are_one_client() -> None:
    assert len({_from(f"2001:db8:1:2:{number:x}::1") for number in range(1000)}) == 1
    assert _from("2001:db8:1:2::1") != _from("2001:db8:1:3::1")


def test_a_mapped_address_is_its_ipv4_address() -> None:
    assert _from("::ffff:192.0.2.1") == _from("192.0.2.1") == "192.0.2.1"


def test_forwarded_addresses_are_ignored_without_a_trusted_proxy() -> None:
    assert _from("192.0.2.1", "198.51.100.7") == "192.0.2.1"
    assert _from("192.0.2.1", "198.51.100.7", trusted=PROXIES) == "192.0.2.1"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        # what the client wrote is further left
        (["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        (["203.0.113.9, 198.51.100.7, 10.1.2.3"], "198.51.100.7"),
        (["203.0.113.9", "198.51.100.7", "10.1.2.3,fd00::5"], "198.51.100.7"),
        (["198.51.100.7:4711"], "198.51.100.7"),
        (['"[2001:db8:1:2::9]:4711"'], "2001:db8:1:2::/64"),
        (["2001:db8:1:2::9"], "2001:db8:1:2::/64"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        # all are proxies: the one furthest away
        (["10.9.9.9, 10.1.2.3"], "10.9.9.9"),
        # not an address: what is further left cannot be trusted
        (["198.51.100.7, unknown, 10.1.2.3"], "10.1.2.3"),
        (["unknown"], "127.0.0.1"),
        ([""], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
def test_behind_a_trusted_proxy_the_client_is_the_rightmost_untrusted_address(
    forwarded: list[str], client: str
) -> None:
    assert _from("127.0.0.1", *forwarded, trusted=PROXIES) == client
    assert _from("::ffff:127.0.0.1", *forwarded, trusted=PROXIES) == client


@given(st.lists(st.text(st.characters(codec="latin-1"), max_size=60), max_size=3))
def test_no_forwarded_header_makes_the_parser_fail(forwarded: list[str]) -> None:
    assert _from("127.0.0.1", *forwarded, trusted=PROXIES)


async def test_clients_behind_a_trusted_proxy_have_limits_of_their_own(call: Any) -> None:
    settings = call.runtime.settings.model_copy(update={"trusted_proxies": ("192.0.2.1",)})
    object.__setattr__(call.runtime, "settings", settings)
    call.app = create_app(call.runtime)

    async def get_remaining(address: str) -> str:
        headers = {"X-Forwarded-For": f"203.0.113.1, {address}"}
        remaining: str = (await call("GET", "/demo/api/events", headers=headers, key=None)).headers[
            "ratelimit-remaining"
        ]
        return remaining

    assert [await get_remaining("198.51.100.1") for _ in range(3)] == ["599", "598", "597"]
    assert await get_remaining("198.51.100.2") == "599"


async def test_every_browser_route_has_a_limit(call: Any) -> None:
    """The routes for user tokens, and those of the demo, as the documentation says. The public key can be cached."""
    paths = (await call("GET", "/openapi.json", key=None)).json["paths"]
    unlimited = []
    for path, item in paths.items():
        for method, operation in item.items():
            is_for_browsers = {"userToken": []} in operation["security"] or path.startswith("/demo/api/")
            if not is_for_browsers:
                continue
            address = path.replace("{event_id}", "e1").replace("{notification_id}", "n1")
            # other routes reject a parameter that they do not know
            parameter = "userId=demo-0001" if path.endswith("/mailbox") else "notificationId=n1"
            query = f"?{parameter}" if path.startswith("/demo/api/") else ""
            reply = await call(method.upper(), f"{address}{query}", json={}, user="u1")
            if "ratelimit-limit" not in reply.headers:
                unlimited.append((method, path, reply.status))
    assert unlimited == []
