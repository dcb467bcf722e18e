"""Real servers that are killed while they close digests: each item arrives exactly once."""

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.server import TidingsServer, eventually

Json = dict[str, Any]
USERS = [f"user-{number:02}" for number in range(40)]
UPDATES = 3


async def test_c16_kills_in_the_middle_of_a_close_repeat_and_lose_nothing(tmp_path: Path) -> None:
    settings = {"TIDINGS_INAPP__ENABLED": "true"}
    async with TidingsServer(tmp_path / "data", settings=settings) as server:
        for user in USERS:
            await server.expect(201, "PUT", f"/api/users/{user}", {})
        triggers = [await notify(server, number) for number in range(UPDATES)]
        # the digests are due now: the server is killed while it closes them, and once more
        for pause in (1.0, 0.3):
            await asyncio.sleep(pause)
            await server.kill()
            await server.start()

        async def are_all_closed() -> bool:
            states = [
                (await server.expect(200, "GET", f"/api/notifications/{trigger}")).read(Json)["finished"]
                for trigger in triggers
            ]
            return all(states)

        await eventually(are_all_closed, within=60)
        expected = {f"Update {number}: Changed": 1 for number in range(UPDATES)}

        async def has_everything(user: str) -> bool:
            return await count_lines(server, user) == expected

        for user in USERS:
            await eventually(partial(has_everything, user), within=60)


async def notify(server: TidingsServer, number: int) -> str:
    body = {
        "userIds": USERS,
        "templateCode": "MESSAGE",
        "variables": {"title": f"Update {number}", "body": "Changed"},
        "options": {"digest": {"windowSeconds": 600, "maxItems": UPDATES}, "channels": ["inapp"]},
    }
    identifier: str = (await server.expect(202, "POST", "/api/notifications", body)).read(Json)["id"]
    return identifier


async def count_lines(server: TidingsServer, user: str) -> Counter[str]:
    response = await server.expect(200, "GET", "/api/inbox", token=server.user_token(user))
    return Counter(line for item in response.read(Json)["items"] for line in item["body"].splitlines())
