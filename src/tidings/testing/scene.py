"""A scaled set-up to be harmed: PostgreSQL, Valkey, push services, and the processes of a fleet on them.

In a test: `async with scene.fleet("api", "worker") as (api, worker): …`, then `books = await scene.books()`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import asyncpg

from tidings.testing.fleet import Member
from tidings.testing.mock_push import SpawnedMockPush
from tidings.testing.oracle import Books, read_books
from tidings.testing.postgres import PostgresServer
from tidings.testing.server import TidingsServer, eventually
from tidings.testing.valkey import ValkeyServer

Command = Literal["serve", "api", "worker"]

#: a notification to everybody
TO_ALL: Mapping[str, object] = {
    "templateCode": "MESSAGE",
    "audience": {"kind": "everyone"},
    "variables": {"title": "Hello", "body": "Everybody"},
}


def to_one(user_id: str) -> Mapping[str, object]:
    """Return a notification to one user."""
    return {"templateCode": "MESSAGE", "userId": user_id, "variables": {"title": "Hello", "body": user_id}}


@dataclass(frozen=True)
class Scene:
    """Servers, a database with people who have a device each, and the settings that join them."""

    postgres: PostgresServer
    #: URL of the database
    database: str
    valkey: ValkeyServer
    pushes: Sequence[SpawnedMockPush]
    people: Sequence[str]
    data_dir: Path
    settings: Mapping[str, str]

    @property
    def push(self) -> SpawnedMockPush:
        """The first push service; mostly the only one."""
        return self.pushes[0]

    def member(self, command: Command, *options: str, **more: str) -> Member:
        """Return a process that has not started yet. more: variables of its environment."""
        return Member(command, self.data_dir, settings={**self.settings, **more}, options=options)

    @asynccontextmanager
    async def fleet(self, *commands: Command, **more: str) -> AsyncIterator[Sequence[Member]]:
        """Start processes together, kill what is left of them at the end."""
        members = [self.member(command, **more) for command in commands]
        async with AsyncExitStack() as stack:
            for member in members:
                stack.push_async_exit(member)
            started = await asyncio.gather(*(member.start() for member in members), return_exceptions=True)
            for error in started:
                if error is not None:
                    raise error
            yield members

    async def sql(self, statement: str, *arguments: object) -> Sequence[Any]:
        """Run one statement on the database and return its rows."""
        connection = await asyncpg.connect(self.database)
        try:
            rows: Sequence[Any] = await connection.fetch(statement, *arguments)
            return rows
        finally:
            await connection.close()

    async def taken(self, number: int, *, within: float = 90.0) -> None:
        """Return once the first push service has taken so many messages. Raises TimeoutError."""
        await self.push.control.wait_for(timeout=within, accepted=number)

    async def end_leases(self) -> None:
        """Let every lease of this moment run out, as if its time had passed."""
        await self.sql("UPDATE deliveries SET lease_until = now() - interval '1 second' WHERE state = 'sending'")

    async def books(self) -> Books:
        """Return receipts and rows of this moment."""
        return await read_books(self.database, self.pushes)


async def notify(api: TidingsServer, wanted: Mapping[str, object] = TO_ALL, *, key: str | None = None) -> str:
    """Have a notification accepted and return its id. key: of idempotency. Raises AssertionError for another answer."""
    headers = None if key is None else {"Idempotency-Key": key}
    answer = await api.expect(202, "POST", "/api/notifications", wanted, headers=headers)
    notification: str = answer.read(dict[str, Any])["id"]
    return notification


async def all_final(api: TidingsServer, notification: str, *, within: float = 90.0) -> Mapping[str, int]:
    """Return deliveries per state once all have a final one. Raises TimeoutError after `within` seconds."""
    return (await api.finished(notification, within=within)).by_state


async def waiting(api: TidingsServer) -> int:
    """Return how many tasks the shared queue holds, waiting or active."""
    lanes = (await api.expect(200, "GET", "/api/queues")).read(dict[str, Any])["lanes"]
    return sum((lane["waiting"] or 0) + (lane["active"] or 0) for lane in lanes)


async def healthy(member: TidingsServer, path: str, *, within: float = 30.0) -> None:
    """Return once a health route answers 200. Raises TimeoutError."""

    async def well() -> bool:
        return (await member.call("GET", path, token=None)).status == 200

    await eventually(well, within=within)
