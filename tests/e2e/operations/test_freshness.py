"""With a slow push service, no send begins three seconds after a confirmed change."""

import asyncio
from pathlib import Path

import pytest
from tests.support.cluster import ServerProcess
from tests.support.installation import Installation

from tidings.mockpush import ResponseRule, SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="session")

#: sent in this order, three at a time
USERS = [f"slow-{number:02}" for number in range(24)]
ERASED, UNSUBSCRIBED, OPTED_OUT, MOVED = LAST = USERS[-4:]


async def test_a_change_takes_effect_while_messages_wait_for_a_slow_service(
    push: SpawnedMockPush, tmp_path: Path
) -> None:
    settings = {"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"), "TIDINGS_WORKER_CONCURRENCY": "4"}
    async with ServerProcess("serve", tmp_path / "data", settings=settings) as server:
        site = Installation(server, [server], push)
        await site.register_users(*USERS)
        await push.control.set_rules(*(ResponseRule(delay_ms=600, device=name) for name in USERS))
        before = {name: len(await push.control.messages(device=name)) for name in LAST}
        notification = await site.send_message(*USERS)
        subscriptions = {name: await push.control.subscription(name) for name in LAST}
        choice = {"preferences": [{"category": "MESSAGE", "channel": "webpush", "enabled": False}]}
        await asyncio.gather(
            server.expect(204, "DELETE", f"/api/users/{ERASED}"),
            server.expect(
                204,
                "DELETE",
                "/api/push/unsubscribe",
                {"endpoint": subscriptions[UNSUBSCRIBED]["endpoint"]},
                token=server.user_token(UNSUBSCRIBED),
            ),
            server.expect(200, "PUT", f"/api/users/{OPTED_OUT}/preferences", choice),
            server.expect(
                201, "POST", "/api/push/subscribe", {**subscriptions[MOVED]}, token=server.user_token(USERS[0])
            ),
        )
        await server.wait_until_finished(notification)
        after = {name: len(await push.control.messages(device=name)) for name in LAST}
    assert after == before
