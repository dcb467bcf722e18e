"""A running installation of Tidings: its API, its sending processes, its database and its command line."""

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from tests.support.cluster import ServerProcess

from tidings.mockpush import SpawnedMockPush
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

#: timeout of a command in seconds
_COMMAND_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Exit code and output of a command."""

    exit_code: int
    stdout: str
    stderr: str

    def parse_json(self) -> Any:
        """Return the printed JSON document. Raises AssertionError with standard error when the command failed."""
        assert self.exit_code == 0, self.stderr
        return msgspec.json.decode(self.stdout)


@dataclass(frozen=True, slots=True)
class Installation:
    """A running set-up. The fixture that creates it starts and stops the processes."""

    #: serves HTTP
    api: ServerProcess
    #: the processes that send; `serve` is API process and worker
    workers: Sequence[ServerProcess]
    push_service: SpawnedMockPush
    #: the servers of a scaled set-up; None = SQLite in the data folder and a queue in the process
    backends: tuple[PostgresServer, ValkeyServer] | None = None

    @property
    def is_scaled(self) -> bool:
        """Whether several processes use PostgreSQL and Valkey."""
        return self.backends is not None

    @property
    def postgres(self) -> PostgresServer:
        """The database server of a scaled set-up."""
        assert self.backends is not None, "this is SQLite"
        return self.backends[0]

    @property
    def valkey(self) -> ValkeyServer:
        """The queue server of a scaled set-up."""
        assert self.backends is not None, "the queue is in the process"
        return self.backends[1]

    async def register_users(self, *users: str) -> None:
        """Create users with one device each, with the name of the user. Existing users stay."""
        for name in users:
            if (await self.api.call("GET", f"/api/users/{name}")).status == 200:
                continue
            await self.api.expect(201, "PUT", f"/api/users/{name}", {})
            wanted = {**(await self.push_service.control.subscription(name)), "device": "Phone"}
            await self.api.expect(201, "POST", "/api/push/subscribe", wanted, token=self.api.user_token(name))

    async def send_message(self, *users: str, **options: object) -> str:
        """Send a message and return the notification's id. options: fields of the request, such as `delay=60_000`."""
        body = {"userIds": users, "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
        answer = await self.api.expect(202, "POST", "/api/notifications", {**body, "options": options})
        return str(answer.read(dict[str, Any])["id"])

    async def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a query on the database. Instants have the database's own form, see `to_utc`."""
        if self.backends is None:
            with closing(sqlite3.connect(self.api.data_dir / "tidings.db", timeout=20)) as connection, connection:
                return connection.execute(statement).fetchall()
        import asyncpg

        opened = await asyncpg.connect(self.api.environment["TIDINGS_DATABASE"])
        try:
            return [tuple(row) for row in await opened.fetch(statement)]
        finally:
            await opened.close()

    async def run_command(self, *arguments: str) -> CommandResult:
        """Run `tidings …` on the same data without a terminal."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings.cli", *arguments),
            env=self.api.environment,
            cwd=self.api.data_dir,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_COMMAND_TIMEOUT):
            out, err = await process.communicate()
        assert process.returncode is not None
        return CommandResult(process.returncode, out.decode(), err.decode())


def to_utc(value: object) -> datetime:
    """Convert an instant from the database (text on SQLite, datetime on PostgreSQL) to UTC."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(moment, datetime), value
    return moment.astimezone(UTC)
