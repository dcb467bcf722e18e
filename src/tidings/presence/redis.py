"""Presence shared through a Redis or Valkey: what many say at once goes in one round trip."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tidings.errors import BackendError
from tidings.model.ids import new_id
from tidings.ports.presence import Vacancy
from tidings.presence.redis_commands import Call, PresenceCommands, left, seen
from tidings.redis_link import PROMPT, RedisLink

#: calls in one round trip
CHUNK = 200
#: steps of one look; what they leave is for the next look
STEPS = 20


@dataclass(slots=True)
class _Waiting:
    call: Call
    answer: asyncio.Future[Any]


class RedisPresence:
    """Implements `ports.presence.Presence` for all processes that share a server and a prefix."""

    def __init__(self, link: RedisLink, prefix: str) -> None:
        """link: decodes text, is closed with this; prefix: first part of all keys."""
        self._link = link
        self._commands = PresenceCommands(link.client, f"{{{prefix}-presence}}")
        self._waiting: list[_Waiting] = []
        self._saying: asyncio.Task[None] | None = None
        #: the answer that was asked for and did not arrive, if any did not
        self._answer: str | None = None
        self._looking = asyncio.Lock()
        #: what was heard last: another one if the server forgot everything
        self.generation: str | None = None

    async def seen(self, room: str, member: str, *, until: datetime, grace: timedelta, now: datetime) -> None:
        (self.generation,) = await self.say([seen(room, member, until=until, grace=grace, now=now)])

    async def left(self, room: str, member: str, *, now: datetime) -> None:
        await self.took_out(room, member, now=now)

    async def took_out(self, room: str, member: str, *, now: datetime) -> bool:
        """Do `left`, and return whether somebody else is in the room."""
        ((self.generation, others),) = await self.say([left(room, member, now=now)])
        return bool(others)

    async def members(self, room: str, now: datetime) -> int:
        async with self._link.within(PROMPT):
            return await self._commands.members(room, now)

    async def total(self, now: datetime) -> int:
        async with self._link.within(PROMPT):
            return await self._commands.total(now)

    async def vacated(self, now: datetime, limit: int) -> Sequence[Vacancy]:
        """As the port says. Those whose answer was lost on the way come with the next call, as many as they were."""
        given: list[Vacancy] = []
        async with self._looking:
            for _ in range(STEPS):
                if len(given) >= limit:
                    break
                self._answer = self._answer or new_id(now)
                try:
                    async with self._link.within(PROMPT):
                        look = await self._commands.look(now, limit - len(given), self._answer)
                except BackendError:
                    # what was given before must not be lost with it
                    if given:
                        break
                    raise
                self._answer, self.generation = None, look.generation
                given += look.given
                if not look.more:
                    break
        return given

    def say(self, calls: Sequence[Call]) -> asyncio.Future[list[Any]]:
        """Put calls in line behind all that were said before; wait for their answers, or BackendError.

        They travel together with what others say meanwhile.
        """
        waiting = [_Waiting(call, asyncio.get_running_loop().create_future()) for call in calls]
        self._waiting += waiting
        if self._saying is None:
            self._saying = asyncio.create_task(self._say_on())
        return asyncio.gather(*(one.answer for one in waiting))

    async def ping(self) -> None:
        """Raise BackendError if the server does not answer."""
        await self._link.ping()

    async def close(self) -> None:
        if self._saying is not None:
            await asyncio.wait([self._saying])
        await self._link.close()

    async def _say_on(self) -> None:
        try:
            while self._waiting:
                await self._say_some()
        finally:
            self._saying = None
            # nobody waits for ever, whatever ended this
            self._fail("the presence does not take any more")

    async def _say_some(self) -> None:
        group = self._waiting[:CHUNK]
        try:
            async with self._link.within(PROMPT):
                answers = await self._commands.run([waiting.call for waiting in group])
        except BackendError as error:
            # those behind would only wait for the same
            self._fail(error.message)
            return
        del self._waiting[: len(group)]
        for waiting, answer in zip(group, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    def _fail(self, why: str) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.answer.done():
                one.answer.set_exception(BackendError(why, retry_after=1.0))
