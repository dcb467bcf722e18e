"""A broadcast over a relay that drops connections, limits and refuses recipients; and what operators see of it."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.support.server import TidingsServer
from tests.support.smtp_relays import SmtpRelay, run_relay

from tidings.testing.polling import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay() -> AsyncIterator[SmtpRelay]:
    async with run_relay() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(relay: SmtpRelay, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TidingsServer]:
    settings = {
        "TIDINGS_SMTP_URL": f"smtp://127.0.0.1:{relay.port}",
        "TIDINGS_EMAIL_FROM": "Jazz Club <news@jazz.example>",
        "TIDINGS_INAPP__ENABLED": "true",
        "TIDINGS_USER_LIMIT": "0",
    }
    async with TidingsServer(tmp_path_factory.mktemp("relay") / "data", settings=settings) as started:
        yield started


@pytest.fixture(autouse=True)
def reset(relay: SmtpRelay) -> None:
    relay.replies.clear()
    relay.accepted.clear()
    relay.is_down = False


async def add_users(server: TidingsServer, city: str, count: int) -> list[str]:
    """Add users of a city and return their addresses."""
    lines = [{"id": f"{city}-{i}", "email": f"{city}{i}@example.com", "city": city} for i in range(count)]
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    await server.expect(200, "POST", "/api/users/bulk", body, headers={"content-type": "application/x-ndjson"})
    return [line["email"] for line in lines]


async def notify(server: TidingsServer, city: str, channel: str = "email") -> str:
    body = {
        "audience": {"kind": "city", "city": city},
        "templateCode": "MESSAGE",
        "variables": {"title": "Doors", "body": "Open at six"},
        "options": {"channels": [channel]},
    }
    accepted = await server.expect(202, "POST", "/api/notifications", body)
    notification: str = accepted.read(Json)["id"]
    return notification


async def read_providers(server: TidingsServer) -> Json:
    [provider] = [
        one
        for one in (await server.expect(200, "GET", "/api/providers")).read(Json)["providers"]
        if one["channel"] == "email"
    ]
    found: Json = provider
    return found


async def read_failed(server: TidingsServer, notification: str) -> list[Json]:
    path = f"/api/notifications/{notification}/deliveries?state=failed"
    items: list[Json] = (await server.expect(200, "GET", path)).read(Json)["items"]
    return items


@pytest.mark.parametrize(
    ("count", "drop_after"),
    [(120, 40), pytest.param(10_000, 2_500, marks=pytest.mark.extended)],
    ids=["120 messages", "10 000 messages"],
)
async def test_c58_a_relay_that_drops_all_connections_costs_nobody_a_message_or_a_second_one(
    server: TidingsServer, relay: SmtpRelay, count: int, drop_after: int
) -> None:
    addresses = await add_users(server, f"drop{count}", count)

    def drop(_recipient: str) -> None:
        if len(relay.accepted) + 1 == drop_after:
            relay.is_down = True
            asyncio.get_running_loop().call_later(1.0, setattr, relay, "is_down", False)

    relay.replies["DATA"] = drop
    notification = await notify(server, f"drop{count}")
    progress = await server.wait_until_finished(notification, within=600)
    assert progress.by_state == {"delivered": count}
    received = Counter(relay.recipients)
    assert set(received) == set(addresses)
    # what was in flight may be sent again; here it was not, because the relay dropped nothing that it had taken
    assert received.total() == count


async def test_c58_a_relay_that_limits_delays_no_other_channel(server: TidingsServer, relay: SmtpRelay) -> None:
    addresses = await add_users(server, "slow", 20)
    is_limited = True
    relay.replies["RCPT"] = lambda _address: "451 4.7.1 too many messages, slow down" if is_limited else None
    by_email = await notify(server, "slow")

    async def is_throttled() -> bool:
        return bool((await read_providers(server))["state"] == "throttled")

    await eventually(is_throttled, within=20)
    in_app = await notify(server, "slow", "inapp")
    assert (await server.wait_until_finished(in_app, within=10)).by_state == {"delivered": 20}
    assert not (await server.get_progress(by_email)).finished
    is_limited = False
    assert (await server.wait_until_finished(by_email)).by_state == {"delivered": 20}
    assert Counter(relay.recipients) == Counter(addresses)
    deliveries = (await server.expect(200, "GET", f"/api/notifications/{by_email}/deliveries")).read(Json)["items"]
    assert {one["attempts"][-1]["number"] for one in deliveries} == {1}, "a wait spends no attempt"


async def test_c59_failed_recipients_are_listed_and_sent_again_alone(server: TidingsServer, relay: SmtpRelay) -> None:
    addresses = await add_users(server, "policy", 20)
    refused = {"policy3@example.com", "policy7@example.com", "policy11@example.com"}
    relay.replies["RCPT"] = lambda address: "550 5.7.1 refused by policy" if address in refused else None
    notification = await notify(server, "policy")
    assert (await server.wait_until_finished(notification)).by_state == {"delivered": 17, "refused": 3}
    failed = await read_failed(server, notification)
    assert {one["userId"] for one in failed} == {"policy-3", "policy-7", "policy-11"}
    assert all("550 5.7.1 refused by policy" in one["attempts"][-1]["why"] for one in failed)
    relay.replies.clear()
    await server.expect(202, "POST", "/api/dead-letters/replay", {"notificationId": notification})

    async def all_delivered() -> bool:
        return (await server.get_progress(notification)).by_state == {"delivered": 20}

    await eventually(all_delivered, within=20)
    assert Counter(relay.recipients) == Counter(addresses)
    assert await read_failed(server, notification) == []


async def test_c47_operators_see_the_provider_over_the_api_and_the_command_line(
    server: TidingsServer, relay: SmtpRelay
) -> None:
    provider = await read_providers(server)
    assert (provider["name"], provider["weight"], provider["processes"]) == (f"127.0.0.1:{relay.port}", 100, 1)
    command = [sys.executable, "-m", "tidings.cli", "providers", "--json"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=server.environment)
    output, _ = await process.communicate()
    assert process.returncode == 0
    shown = {(one["channel"], one["name"]) for one in json.loads(output)["providers"]}
    assert ("email", f"127.0.0.1:{relay.port}") in shown
    metrics = (await server.call("GET", "/metrics")).body.decode()
    labels = f'{{channel="email",provider="127.0.0.1:{relay.port}"}}'
    assert f"tidings_provider_requests_total{labels}" in metrics
    assert f"tidings_provider_outages_total{labels}" in metrics
