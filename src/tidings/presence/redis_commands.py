"""What the shared presence says to Redis: small scripts, each one step that nobody sees half done.

Beside the root `{<prefix>-presence}`, whose hash tag puts all keys in one slot:

    :in:<room>          sorted set: members → until               :at:<room>   hash: grace, since
    :everybody, :signs  sorted sets: entries → until, last sign   (an entry is `<bytes of room>:<room><member>`)
    :emptied, :due      sorted sets: rooms that nobody is in → when that was noticed, end of the grace
    :epochs             sorted set: rooms → last epoch            :answer:<id> string: vacancies that were given
    :generation         string: another one if the server forgot everything

Times are whole microseconds since 1970, epochs milliseconds. The keys of rooms are made in the scripts, as all are in
the slot of the root that is named to the server.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from tidings.ports.presence import Vacancy
from tidings.presence.instants import CLOCKS_AGREE_WITHIN, EPOCHS_KEPT, MICROSECOND, instant, microseconds

#: members and rooms that one step of a look goes through
STEP = 200
#: seconds for which the answer of a look is kept, in case it did not arrive
ANSWER_KEPT = 3600

_KEYS = """
local root, now = KEYS[1], tonumber(ARGV[1])
local everybody, signs, epochs = root .. ':everybody', root .. ':signs', root .. ':epochs'
local emptied, due = root .. ':emptied', root .. ':due'
local function inside(room) return root .. ':in:' .. room end
local function about(room) return root .. ':at:' .. room end
local function entry(room, member) return string.len(room) .. ':' .. room .. member end
local function parted(one)
  local colon = string.find(one, ':', 1, true)
  local last = colon + tonumber(string.sub(one, 1, colon - 1))
  return string.sub(one, colon + 1, last), string.sub(one, last + 1)
end
local function set_until(room, member, at)
  redis.call('ZADD', inside(room), at, member)
  redis.call('ZADD', everybody, at, entry(room, member))
  redis.call('ZADD', signs, now, entry(room, member))
end
local function generation()
  local known = redis.call('GET', root .. ':generation')
  if not known then
    known = table.concat(redis.call('TIME'), '.')
    redis.call('SET', root .. ':generation', known)
  end
  return known
end
local function begin_grace(room)
  redis.call('ZADD', emptied, now, room)
  redis.call('ZADD', due, now + (redis.call('HGET', about(room), 'grace') or 0), room)
  -- a clock ahead said that somebody was there later than now
  if tonumber(redis.call('HGET', about(room), 'since') or 0) > now then
    redis.call('HSET', about(room), 'since', ARGV[1])
  end
end
local function forget(room)
  redis.call('DEL', about(room))
  redis.call('ZREM', emptied, room)
  redis.call('ZREM', due, room)
end
local function take_out(room, member)
  redis.call('ZREM', inside(room), member)
  redis.call('ZREM', everybody, entry(room, member))
  redis.call('ZREM', signs, entry(room, member))
  if redis.call('EXISTS', inside(room)) == 0 then begin_grace(room) end
end
"""

# ARGV: now, room, member, until, grace. Answers the generation.
_SEEN = """
local room = ARGV[2]
set_until(room, ARGV[3], ARGV[4])
redis.call('HSET', about(room), 'grace', ARGV[5], 'since', ARGV[1])
redis.call('ZREM', emptied, room)
redis.call('ZREM', due, room)
return generation()
"""

# ARGV: now, room, member. Answers the generation, and whether somebody else is still there.
_LEFT = """
local room = ARGV[2]
if redis.call('ZSCORE', inside(room), ARGV[3]) then
  redis.call('HSET', about(room), 'since', ARGV[1])
  take_out(room, ARGV[3])
end
return {generation(), redis.call('EXISTS', inside(room))}
"""

# ARGV: now, room, last epoch given of it, members. Takes members out of a room whose vacancy was given elsewhere.
_SETTLE = """
local room = ARGV[2]
for place = 4, #ARGV do take_out(room, ARGV[place]) end
if redis.call('EXISTS', inside(room)) == 0 then forget(room) end
redis.call('ZADD', epochs, 'GT', ARGV[3], room)
"""

# ARGV: now, most vacancies, most steps, microseconds that clocks may differ, oldest epoch to keep, id of the answer,
# seconds to keep it. Answers the generation, whether there is more to do, then room, since and epoch of each vacancy.
_VACATED = """
local limit, step = tonumber(ARGV[2]), tonumber(ARGV[3])
local answer = root .. ':answer:' .. ARGV[6]
local kept = redis.call('GET', answer)
if kept then
  local reply = {generation(), '1'}
  local given = cjson.decode(kept)
  for place = 1, #given, 3 do
    -- somebody may have come back since it was given
    if redis.call('EXISTS', about(given[place])) == 0 then
      for part = place, place + 2 do table.insert(reply, given[part]) end
    end
  end
  return reply
end

local ahead = string.format('(%.0f', now + tonumber(ARGV[4]))
local early = redis.call('ZRANGEBYSCORE', signs, ahead, '+inf', 'WITHSCORES', 'LIMIT', 0, step)
for place = 1, #early, 2 do
  local room, member = parted(early[place])
  set_until(room, member, now + redis.call('ZSCORE', inside(room), member) - early[place + 1])
end
local early_rooms = redis.call('ZRANGEBYSCORE', emptied, ahead, '+inf', 'LIMIT', 0, step)
for _, room in ipairs(early_rooms) do begin_grace(room) end

local silent = redis.call('ZRANGEBYSCORE', everybody, '-inf', now, 'LIMIT', 0, step)
for _, one in ipairs(silent) do take_out(parted(one)) end

local given = {}
local over = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, math.min(limit, step))
for _, room in ipairs(over) do
  local since = redis.call('HGET', about(room), 'since') or ARGV[1]
  local last = tonumber(redis.call('ZSCORE', epochs, room) or 0)
  local epoch = math.max(math.floor(tonumber(since) / 1000), last + 1)
  redis.call('ZADD', epochs, epoch, room)
  forget(room)
  table.insert(given, room)
  table.insert(given, since)
  table.insert(given, string.format('%.0f', epoch))
end
if #given > 0 then redis.call('SET', answer, cjson.encode(given), 'EX', ARGV[7]) end

for _, room in ipairs(redis.call('ZRANGEBYSCORE', epochs, '-inf', '(' .. ARGV[5], 'LIMIT', 0, step)) do
  redis.call('ZREM', epochs, room)
end
local most = math.max(#early / 2, #early_rooms, #silent, #over)
local reply = {generation(), most == step and '1' or '0'}
for _, part in ipairs(given) do table.insert(reply, part) end
return reply
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One script and what it gets after `now`."""

    script: str
    now: datetime
    args: Sequence[str | int]


def seen(room: str, member: str, *, until: datetime, grace: timedelta, now: datetime) -> Call:
    """Return the call that says a member is there; answers the generation."""
    return Call(_SEEN, now, (room, member, microseconds(until), grace // MICROSECOND))


def left(room: str, member: str, *, now: datetime) -> Call:
    """Return the call that says a member went; answers the generation, and 1 if somebody else is there, else 0."""
    return Call(_LEFT, now, (room, member))


def settled(room: str, members: Sequence[str], epoch: int, *, now: datetime) -> Call:
    """Return the call that takes members out of a room whose vacancy was given elsewhere.

    If nobody else is in it, it gives no other; epoch: the last that was given.
    """
    return Call(_SETTLE, now, (room, epoch, *members))


@dataclass(frozen=True, slots=True)
class Look:
    """What one step of a look found."""

    generation: str
    given: Sequence[Vacancy]
    #: whether another step would find more
    more: bool


class PresenceCommands:
    """The commands of one presence. Any of them may raise what the client raises; deadlines are the caller's."""

    def __init__(self, client: Redis, root: str) -> None:
        """client: gives text; root: name before all keys, with its hash tag."""
        self._client = client
        self._root = root
        self._scripts = {body: client.register_script(_KEYS + body) for body in (_SEEN, _LEFT, _SETTLE, _VACATED)}

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Make calls in one round trip; return their answers in order."""
        try:
            return await self._run(calls)
        except NoScriptError:
            # a server that started anew; to say a thing a second time does no harm
            for script in self._scripts.values():
                await self._client.script_load(script.script)
            return await self._run(calls)

    async def look(self, now: datetime, limit: int, answer: str) -> Look:
        """Do one step of a look. answer: an id; a step whose answer did not arrive is repeated with the same one."""
        oldest = microseconds(now - EPOCHS_KEPT) // 1000
        agree = CLOCKS_AGREE_WITHIN // MICROSECOND
        args = (microseconds(now), limit, STEP, agree, oldest, answer, ANSWER_KEPT)
        generation, more, *parts = await self._scripts[_VACATED](keys=[self._root], args=args)
        threes = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
        given = [Vacancy(room, instant(int(since)), int(epoch)) for room, since, epoch in threes]
        return Look(generation, given, more == "1")

    async def members(self, room: str, now: datetime) -> int:
        """Count who is in a room."""
        return int(await self._client.zcount(f"{self._root}:in:{room}", f"({microseconds(now)}", "+inf"))

    async def total(self, now: datetime) -> int:
        """Count who is in any room."""
        return int(await self._client.zcount(f"{self._root}:everybody", f"({microseconds(now)}", "+inf"))

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for call in calls:
                # `AsyncScript` would ask for the scripts each time, which doubles the round trips
                pipeline.evalsha(
                    self._scripts[call.script].sha, 1, self._root, str(microseconds(call.now)), *map(str, call.args)
                )
            return await pipeline.execute()
