"""The Redis commands of the shared cache. Each step is bounded, and all keys are in one cluster slot.

| key | type | content |
|---|---|---|
| `{<name>}:<key>` | string | `v<value>`, or `x` for a tombstone |
| `{<name>}index` | sorted set | keys by expiry time: counts, bounds and searches entries without a scan of the server |
| `{<name>}swept` | sorted set | pattern tombstones by expiry time |
| `{<name>}dropped` | channel | invalidations |
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta

from redis.asyncio import Redis

#: keys per command, and keys per step of a search
MAX_KEYS_PER_COMMAND = 500

# Stores entries that no tombstone rejects. KEYS: index, pattern tombstones, entries. ARGV: time to live in
# milliseconds, most entries, length of the key prefix, values.
_SET_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local patterns = redis.call('ZRANGE', KEYS[2], 0, -1)
for i = 3, #KEYS do
  local key = string.sub(KEYS[i], ARGV[3] + 1)
  local has_tombstone = redis.call('GETRANGE', KEYS[i], 0, 0) == 'x'
  for _, pattern in ipairs(patterns) do
    has_tombstone = has_tombstone or string.find(key, pattern) ~= nil
  end
  if not has_tombstone then
    redis.call('SET', KEYS[i], 'v' .. ARGV[i + 1], 'PX', ARGV[1])
    redis.call('ZADD', KEYS[1], now + ARGV[1], key)
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
local excess = math.min(redis.call('ZCARD', KEYS[1]) - ARGV[2], 1000)
if excess > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[1], excess)
  local prefix = string.sub(KEYS[3], 1, ARGV[3])
  for i = 1, #oldest, 2 do
    redis.call('DEL', prefix .. oldest[i])
  end
end
"""

# Adds a pattern tombstone. KEYS: pattern tombstones. ARGV: Lua pattern, time to live in milliseconds.
_PATTERN_TOMBSTONE_SCRIPT = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


class CacheCommands:
    """The commands of one cache. They raise the exceptions of the client; the caller sets deadlines."""

    def __init__(self, client: Redis, name: str, *, max_entries: int, tombstone_ttl: timedelta) -> None:
        """client: returns bytes. name: prefix of the key names. max_entries, tombstone_ttl: as for `MemoryCache`."""
        self._client = client
        self._prefix = f"{{{name}}}:"
        self._index_key, self._pattern_tombstones_key = f"{{{name}}}index", f"{{{name}}}swept"
        self.channel = f"{{{name}}}dropped"
        self._max_entries = max_entries
        self._tombstone_ttl_ms = _to_milliseconds(tombstone_ttl)
        self._set_script = client.register_script(_SET_SCRIPT)
        self._pattern_tombstone_script = client.register_script(_PATTERN_TOMBSTONE_SCRIPT)

    async def get(self, keys: Sequence[str]) -> dict[str, tuple[bytes, float]]:
        """Return the present values, each with its remaining time to live in seconds.

        keys: at most `MAX_KEYS_PER_COMMAND`.
        """
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.mget([self._prefix + key for key in keys])
            pipeline.zmscore(self._index_key, list(keys))
            (seconds, micros), values, expiries = await pipeline.execute()
        now = seconds + micros / 1e6
        return {
            key: (value[1:], expiry_ms / 1000 - now)
            for key, value, expiry_ms in zip(keys, values, expiries, strict=True)
            if value is not None and value[:1] == b"v" and expiry_ms is not None
        }

    async def set(self, values: Mapping[str, bytes], ttl: timedelta) -> None:
        """Store at most `MAX_KEYS_PER_COMMAND` values."""
        keys = [self._index_key, self._pattern_tombstones_key, *(self._prefix + key for key in values)]
        await self._set_script(
            keys, [_to_milliseconds(ttl), self._max_entries, len(self._prefix.encode()), *values.values()]
        )

    async def drop(self, keys: Sequence[str], message: bytes) -> None:
        """Drop at most `MAX_KEYS_PER_COMMAND` keys, then publish the invalidation."""
        async with self._client.pipeline(transaction=True) as pipeline:
            for key in keys:
                pipeline.set(self._prefix + key, b"x", px=self._tombstone_ttl_ms)
            pipeline.zrem(self._index_key, *keys)
            pipeline.publish(self.channel, message)
            await pipeline.execute()

    async def add_pattern_tombstone(self, pattern: str, message: bytes) -> None:
        """Reject values of matching keys from now on and publish; `drop_matching_step` then drops present ones."""
        await self._pattern_tombstone_script(
            [self._pattern_tombstones_key], [_for_lua(pattern), self._tombstone_ttl_ms]
        )
        await self._client.publish(self.channel, message)

    async def drop_matching_step(self, pattern: str, cursor: int) -> int:
        """Drop the matching keys of one search step. Returns the cursor of the next step, 0 = complete."""
        cursor, found = await self._client.zscan(
            self._index_key, cursor, match=_for_redis(pattern), count=MAX_KEYS_PER_COMMAND
        )
        if found:
            keys = [key for key, _ in found if isinstance(key, bytes)]
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.unlink(*(self._prefix.encode() + key for key in keys))
                pipeline.zrem(self._index_key, *keys)
                await pipeline.execute()
        return cursor


def _to_milliseconds(span: timedelta) -> int:
    return max(1, round(span.total_seconds() * 1000))


def _for_redis(pattern: str) -> str:
    """Escape a pattern, in which only `*` is special, for `MATCH`, where `?`, `[`, `]` and backslash are too."""
    return re.sub(r"([?\[\]\\])", r"\\\1", pattern)


def _for_lua(pattern: str) -> str:
    """Convert a pattern for Lua's `string.find`, which matches bytes and escapes special characters with `%`."""
    return "^" + re.sub(r"([\^$()%.\[\]+\-?])", r"%\1", pattern).replace("*", ".*") + "$"
