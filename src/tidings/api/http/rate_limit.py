"""Rate limits for routes, per caller: a user, an API key, or the address of a client."""

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from fastapi import Request
from starlette.requests import HTTPConnection

from tidings.errors import RateLimited
from tidings.ports.rate_limits import RateDecision, RateLimit, RateLimiter

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
#: the decisions about a request in its ASGI scope, by limit: a request that is handled again is counted once
_DECISIONS_KEY = "tidings.rate_decisions"


class RouteLimits:
    """Creates the dependencies that limit the calls of routes."""

    def __init__(self, limiter: RateLimiter, trusted_proxies: Sequence[str] = ()) -> None:
        """trusted_proxies: addresses and networks whose `X-Forwarded-For` counts."""
        self._limiter = limiter
        self._trusted = tuple(ip_network(entry, strict=False) for entry in trusted_proxies)

    def limit(
        self, name: str, rate: RateLimit, key_for: Callable[[Request], Awaitable[str]] | None = None
    ) -> Callable[[Request], Awaitable[None]]:
        """Return a dependency that limits calls per key (default: `client_key`). It raises RateLimited.

        name: routes with the same name are counted together.
        """

        async def dependency(request: Request) -> None:
            decisions: dict[str, RateDecision] = request.scope.setdefault(_DECISIONS_KEY, {})
            if (decision := decisions.get(name)) is None:
                key = await key_for(request) if key_for is not None else client_key(request, self._trusted)
                decision = decisions[name] = await self._limiter.consume(name, key, rate)
            request.state.response_headers.update(
                {
                    "RateLimit-Limit": str(rate.calls),
                    "RateLimit-Remaining": str(decision.remaining),
                    "RateLimit-Reset": str(math.ceil(decision.reset_after)),
                }
            )
            if not decision.is_allowed:
                raise RateLimited(
                    f"Rate limit exceeded: {rate.calls} calls per {rate.period:g} s.", retry_after=decision.retry_after
                )

        return dependency


def client_key(request: HTTPConnection, trusted: Sequence[Network] = ()) -> str:
    """Return the key of a client: its IPv4 address, or its IPv6 /64 prefix, which belongs to one customer.

    Behind trusted proxies the client is the rightmost address of `X-Forwarded-For` that is not one of them. Any client
    can write the addresses further left. Without a trusted proxy the header is ignored.
    """
    host = request.client.host if request.client else "unknown"
    address = _parse_address(host)
    if address is None:
        return host
    if _is_trusted(address, trusted):
        for entry in _forwarded_addresses(request):
            address = entry
            if not _is_trusted(entry, trusted):
                break
    return f"{IPv6Address(int(address) >> 64 << 64)}/64" if isinstance(address, IPv6Address) else str(address)


def _forwarded_addresses(request: HTTPConnection) -> Iterator[Address]:
    """Yield the addresses of `X-Forwarded-For` from right to left, up to one that is malformed."""
    entries = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    for entry in reversed(entries):
        address = _parse_address(_without_port(entry.strip().strip('"')))
        if address is None:
            return
        yield address


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, separator, _port = text.partition(":")
    # an IPv6 address without brackets has several colons
    return host if separator and text.count(":") == 1 else text


def _parse_address(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)
