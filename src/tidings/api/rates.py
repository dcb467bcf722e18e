"""Rate limits of the routes that browsers call, kept in this process (MISSION M8)."""

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from fastapi import Request

from tidings.errors import RateLimited
from tidings.ports.clock import Clock

#: buckets kept at most; the least recently used goes first
MAX_BUCKETS = 20_000
#: seconds since the epoch are exact to about a quarter of this
_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls per period, all of them at once if the caller was quiet before."""

    calls: int
    #: seconds
    period: float


@dataclass(frozen=True, slots=True)
class Room:
    """What is left after one call."""

    allowed: bool
    remaining: int
    #: seconds until the bucket is full again
    reset: float
    #: seconds until one more call is allowed
    retry_after: float


class Bucket:
    """A generic cell rate algorithm: one number per caller says how far ahead of its rate it has run."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._step = rate.period / rate.calls
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, who: str, now: float) -> Room:
        """Count one call of `who` at `now` (seconds since the epoch)."""
        step, period = self._step, self.rate.period
        full_at = max(self._full_at.get(who, now), now)
        if full_at + step > now + period + _TINY:
            return Room(False, 0, full_at - now, full_at + step - now - period)
        self._full_at[who] = full_at + step
        self._full_at.move_to_end(who)
        while len(self._full_at) > MAX_BUCKETS:
            self._full_at.popitem(last=False)
        ahead = full_at + step - now
        return Room(True, int((period - ahead + _TINY) / step), ahead, 0.0)


def address_of(request: Request) -> str:
    """Return what stands for the client: its IPv4 address, or its IPv6 /64, which one customer gets as a whole.

    Forwarded headers are not believed: anybody can write them.
    """
    host = request.client.host if request.client else "unknown"
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return host


def limited(
    rate: Rate, clock: Clock, who: Callable[[Request], Awaitable[str]] | None = None
) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that counts calls per `who` (default: per client address) and refuses those too many."""
    bucket = Bucket(rate)

    async def dependency(request: Request) -> None:
        key = await who(request) if who is not None else address_of(request)
        room = bucket.take(key, clock.now().timestamp())
        request.state.answer_headers.update(
            {
                "RateLimit-Limit": str(rate.calls),
                "RateLimit-Remaining": str(room.remaining),
                "RateLimit-Reset": str(math.ceil(room.reset)),
            }
        )
        if not room.allowed:
            raise RateLimited(
                f"Too many calls: {rate.calls} per {rate.period:g} s are allowed here.", retry_after=room.retry_after
            )

    return dependency
