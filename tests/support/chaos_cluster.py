"""A scaled set-up for fault injection: PostgreSQL, Valkey, push services and Tidings processes.

In a test: `async with cluster.start_processes("api", "worker") as (api, worker): …`, then `await cluster.audit()`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import asyncpg
from tests.support.cluster import ServerProcess
from tests.support.delivery_audit import DeliveryAudit, read_delivery_audit
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import SpawnedMockPush
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

Command = Literal["serve", "api", "worker"]

#: a notification to all users
BROADCAST: Mapping[str, object] = {
    "templateCode": "MESSAGE",
    "audience": {"kind": "everyone"},
    "variables": {"title": "Hello", "body": "Everybody"},
}


def build_single_notification(user_id: str) -> Mapping[str, object]:
    """Return a request to notify one user."""
    return {"templateCode": "MESSAGE", "userId": user_id, "variables": {"title": "Hello", "body": user_id}}


@dataclass(frozen=True)
class ChaosCluster:
    """Servers, a database of users with one device each, and the settings of the processes."""

    postgres: PostgresServer
    #: URL of the database
    database_url: str
    valkey: ValkeyServer
    push_services: Sequence[SpawnedMockPush]
    user_ids: Sequence[str]
    data_dir: Path
    settings: Mapping[str, str]

    @property
    def push_service(self) -> SpawnedMockPush:
        """The first push service, in most tests the only one."""
        return self.push_services[0]

    def create_process(self, command: Command, *options: str, **more: str) -> ServerProcess:
        """Return a process that has not started. more: further environment variables."""
        return ServerProcess(command, self.data_dir, settings={**self.settings, **more}, options=options)

    @asynccontextmanager
    async def start_processes(self, *commands: Command, **more: str) -> AsyncIterator[Sequence[ServerProcess]]:
        """Start processes together. Kill those that still run at the end."""
        members = [self.create_process(command, **more) for command in commands]
        async with AsyncExitStack() as stack:
            for member in members:
                stack.push_async_exit(member)
            started = await asyncio.gather(*(member.start() for member in members), return_exceptions=True)
            for error in started:
                if error is not None:
                    raise error
            yield members

    async def run_sql(self, statement: str, *arguments: object) -> Sequence[Any]:
        """Run one statement on the database and return its rows."""
        connection = await asyncpg.connect(self.database_url)
        try:
            rows: Sequence[Any] = await connection.fetch(statement, *arguments)
            return rows
        finally:
            await connection.close()

    async def wait_for_accepted(self, number: int, *, within: float = 90.0) -> None:
        """Return once the first push service has accepted `number` messages. Raises TimeoutError."""
        await self.push_service.control.wait_for(timeout=within, accepted=number)

    async def expire_leases(self) -> None:
        """Set the expiry of every current lease to the past."""
        await self.run_sql("UPDATE deliveries SET lease_until = now() - interval '1 second' WHERE state = 'sending'")

    async def audit(self) -> DeliveryAudit:
        """Return the current receipts and rows."""
        return await read_delivery_audit(self.database_url, self.push_services)


async def notify(api: TidingsServer, body: Mapping[str, object] = BROADCAST, *, key: str | None = None) -> str:
    """Create a notification and return its id. key: idempotency key. Raises AssertionError for another status."""
    headers = None if key is None else {"Idempotency-Key": key}
    answer = await api.expect(202, "POST", "/api/notifications", body, headers=headers)
    notification: str = answer.read(dict[str, Any])["id"]
    return notification


async def wait_until_final(api: TidingsServer, notification: str, *, within: float = 90.0) -> Mapping[str, int]:
    """Return the deliveries per state once all states are final. Raises TimeoutError after `within` seconds."""
    return (await api.wait_until_finished(notification, within=within)).by_state


async def count_queued_tasks(api: TidingsServer) -> int:
    """Return the number of waiting and active tasks on the shared queue."""
    lanes = (await api.expect(200, "GET", "/api/queues")).read(dict[str, Any])["lanes"]
    return sum((lane["waiting"] or 0) + (lane["active"] or 0) for lane in lanes)


async def wait_until_healthy(process: TidingsServer, path: str, *, within: float = 90.0) -> None:
    """Return once a health route responds with 200. Raises TimeoutError."""

    async def is_healthy() -> bool:
        return (await process.call("GET", path, token=None)).status == 200

    await eventually(is_healthy, within=within)
