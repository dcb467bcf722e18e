"""What the shared cache says to Redis: each step bounded, all keys in one slot.

An entry is a string `v<value>`, or `x` while the key settles after a drop. Two sorted sets stand beside the entries:
`index` holds their keys by the time they run out, so that they can be counted, bounded and searched without looking at
anything else that lives in the same Redis; `swept` holds the patterns dropped lately.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from redis.asyncio import Redis

from tidings.caches.globs import for_lua, for_redis

#: keys in one command, and keys looked at in one step of a search
CHUNK = 500

# Takes in entries unless they settle. KEYS: index, swept, entries; ARGV: milliseconds they live, most entries, length
# of the prefix of keys, then the values.
_SET = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local swept = redis.call('ZRANGE', KEYS[2], 0, -1)
for place = 3, #KEYS do
  local key = string.sub(KEYS[place], ARGV[3] + 1)
  local settles = redis.call('GETRANGE', KEYS[place], 0, 0) == 'x'
  for _, pattern in ipairs(swept) do
    settles = settles or string.find(key, pattern) ~= nil
  end
  if not settles then
    redis.call('SET', KEYS[place], 'v' .. ARGV[place + 1], 'PX', ARGV[1])
    redis.call('ZADD', KEYS[1], now + ARGV[1], key)
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
local over = math.min(redis.call('ZCARD', KEYS[1]) - ARGV[2], 1000)
if over > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[1], over)
  local prefix = string.sub(KEYS[3], 1, ARGV[3])
  for place = 1, #oldest, 2 do
    redis.call('DEL', prefix .. oldest[place])
  end
end
"""

# Notes a pattern. KEYS: swept; ARGV: pattern for Lua, milliseconds it settles.
_SWEEP = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


class CacheCommands:
    """The commands of one cache. Any of them may raise what the client raises; deadlines are the caller's."""

    def __init__(self, client: Redis, name: str, *, entries: int, settle: timedelta) -> None:
        """client: gives bytes; name: of the cache; entries, settle: as `caches.local.LocalCache`."""
        self._client = client
        self._prefix = f"{{{name}}}:"
        self._index, self._swept = f"{{{name}}}index", f"{{{name}}}swept"
        self.channel = f"{{{name}}}dropped"
        self._entries = entries
        self._settle_ms = _ms(settle)
        self._set = client.register_script(_SET)
        self._sweep = client.register_script(_SWEEP)

    async def get(self, keys: Sequence[str]) -> dict[str, tuple[bytes, float]]:
        """Return what is there, each value with the seconds that it has left. At most `CHUNK` keys."""
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.mget([self._prefix + key for key in keys])
            pipeline.zmscore(self._index, list(keys))
            (seconds, micros), values, ends = await pipeline.execute()
        now = seconds + micros / 1e6
        return {
            key: (value[1:], end / 1000 - now)
            for key, value, end in zip(keys, values, ends, strict=True)
            if value is not None and value[:1] == b"v" and end is not None
        }

    async def set(self, values: Mapping[str, bytes], ttl: timedelta) -> None:
        """Take in at most `CHUNK` values."""
        keys = [self._index, self._swept, *(self._prefix + key for key in values)]
        await self._set(keys, [_ms(ttl), self._entries, len(self._prefix.encode()), *values.values()])

    async def drop(self, keys: Sequence[str], note: bytes) -> None:
        """Drop at most `CHUNK` keys, then tell everybody who listens."""
        async with self._client.pipeline(transaction=True) as pipeline:
            for key in keys:
                pipeline.set(self._prefix + key, b"x", px=self._settle_ms)
            pipeline.zrem(self._index, *keys)
            pipeline.publish(self.channel, note)
            await pipeline.execute()

    async def sweep(self, pattern: str, note: bytes) -> None:
        """Keep what matches from being taken in, and tell everybody; `drop_some` then drops what is there."""
        await self._sweep([self._swept], [for_lua(pattern), self._settle_ms])
        await self._client.publish(self.channel, note)

    async def drop_some(self, pattern: str, cursor: int) -> int:
        """Search one step through the keys and drop what matches. Returns where to go on, 0 = at the end."""
        cursor, found = await self._client.zscan(self._index, cursor, match=for_redis(pattern), count=CHUNK)
        if found:
            keys = [key for key, _ in found if isinstance(key, bytes)]
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.unlink(*(self._prefix.encode() + key for key in keys))
                pipeline.zrem(self._index, *keys)
                await pipeline.execute()
        return cursor


def _ms(span: timedelta) -> int:
    return max(1, round(span.total_seconds() * 1000))
