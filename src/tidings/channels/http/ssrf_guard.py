"""SSRF guard: resolves untrusted hosts to public addresses only.

The networks are listed explicitly because `ipaddress.is_global` misclassifies several of them.
"""

import asyncio
import ipaddress
import socket

from tidings.errors import TidingsError

_NON_PUBLIC_IPV4 = tuple(
    ipaddress.IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
#: the only IPv6 range that is allocated; NAT64 (64:ff9b::/96), mapped, unique local and multicast are outside it
_GLOBAL_UNICAST_IPV6 = ipaddress.IPv6Network("2000::/3")
_NON_PUBLIC_IPV6 = tuple(
    ipaddress.IPv6Network(net)
    for net in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: embeds any IPv4 address
        "3fff::/20",  # documentation
    )
)


class AddressRefused(TidingsError):
    """The host has no address that may be connected to."""

    code = "address_refused"


def is_public(address: str) -> bool:
    """Return whether an IP address, in any notation that the resolver returns, is a public one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in net for net in _NON_PUBLIC_IPV4)
    return ip in _GLOBAL_UNICAST_IPV6 and not any(ip in net for net in _NON_PUBLIC_IPV6)


def is_local_host(host: str) -> bool:
    """Return whether a host name, without being resolved, is known to have no public address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
    return not is_public(host)


async def resolve(host: str, port: int) -> tuple[str, ...]:
    """Return the addresses of a host in the resolver's order. Raises AddressRefused if there is none."""
    loop = asyncio.get_running_loop()
    try:
        entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise AddressRefused(f"{host} does not resolve") from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))


async def resolve_public(host: str, port: int) -> tuple[str, ...]:
    """Return the public addresses of a host. Connect to one of them: a second look-up could return another address.

    Raises AddressRefused if the host does not resolve or has no public address.
    """
    public = tuple(address for address in await resolve(host, port) if is_public(address))
    if not public:
        raise AddressRefused(f"{host} has no public address")
    return public
