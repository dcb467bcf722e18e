"""Tidings as somebody runs it: whom to ask, who sends, its database and its command line at hand."""

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from tidings.testing.fleet import Member
from tidings.testing.mock_push import SpawnedMockPush
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

#: seconds that a command may take
_COMMAND_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return the document it printed. Raises AssertionError, quoting its complaint, when it failed."""
        assert self.code == 0, self.err
        return msgspec.json.decode(self.out)


@dataclass(frozen=True, slots=True)
class Installation:
    """A running set-up; who made it starts and stops its processes."""

    #: answers HTTP
    api: Member
    #: those that send; `serve` does both
    workers: Sequence[Member]
    push: SpawnedMockPush
    #: the servers of a scaled set-up, None = SQLite in the data folder and a queue in the process
    backends: tuple[PostgresServer, ValkeyServer] | None = None

    @property
    def scaled(self) -> bool:
        """Whether there are several processes on PostgreSQL and Valkey."""
        return self.backends is not None

    @property
    def postgres(self) -> PostgresServer:
        """The database server of a scaled set-up."""
        assert self.backends is not None, "this is SQLite"
        return self.backends[0]

    @property
    def valkey(self) -> ValkeyServer:
        """The queue's server of a scaled set-up."""
        assert self.backends is not None, "the queue is in the process"
        return self.backends[1]

    async def sign_up(self, *users: str) -> None:
        """Have users with one device each, named as its user; those who are there stay."""
        for name in users:
            if (await self.api.call("GET", f"/api/users/{name}")).status == 200:
                continue
            await self.api.expect(201, "PUT", f"/api/users/{name}", {})
            wanted = {**(await self.push.control.subscription(name)), "device": "Phone"}
            await self.api.expect(201, "POST", "/api/push/subscribe", wanted, token=self.api.user_token(name))

    async def tell(self, *users: str, **options: object) -> str:
        """Send a message and return the notification's id. options: as in the request, `delay=60_000`."""
        body = {"userIds": users, "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
        answer = await self.api.expect(202, "POST", "/api/notifications", {**body, "options": options})
        return str(answer.read(dict[str, Any])["id"])

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database itself. Instants come back as the database has them, see `instant`."""
        if self.backends is None:
            with closing(sqlite3.connect(self.api.data_dir / "tidings.db", timeout=20)) as connection, connection:
                return connection.execute(statement).fetchall()
        import asyncpg

        opened = await asyncpg.connect(self.api.environment["TIDINGS_DATABASE"])
        try:
            return [tuple(row) for row in await opened.fetch(statement)]
        finally:
            await opened.close()

    async def command(self, *arguments: str) -> Ran:
        """Run `tidings …` on the same data, without a terminal."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings.cli", *arguments),
            env=self.api.environment,
            cwd=self.api.data_dir,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_COMMAND_SECONDS):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())


def instant(value: object) -> datetime:
    """Return an instant as the database has it, as SQLite's text or PostgreSQL's value, in UTC."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(moment, datetime), value
    return moment.astimezone(UTC)
