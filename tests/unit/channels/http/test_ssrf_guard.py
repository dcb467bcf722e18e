"""Addresses to which connections are allowed."""

import asyncio
import socket

import pytest

from tidings.channels.http.ssrf_guard import AddressRefused, is_public, resolve_public


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "142.250.74.10", "17.188.168.1", "100.63.255.255", "2a00:1450:4001::a", "2606:4700::1"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "",
    ],
)
def test_everything_else_is_refused(address: str) -> None:
    assert not is_public(address)


async def test_a_name_that_resolves_to_loopback_is_rejected() -> None:
    with pytest.raises(AddressRefused, match="localhost has no public address"):
        await resolve_public("localhost", 443)


async def test_a_name_without_an_address_is_refused() -> None:
    with pytest.raises(AddressRefused, match="does not resolve"):
        await resolve_public("nobody.invalid", 443)


async def test_only_the_public_addresses_of_a_mixed_answer_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def mixed(*_: object, **__: object) -> list[tuple[object, ...]]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.2", 443)), (*kind, ("8.8.8.8", 443)), (*kind, ("10.0.0.1", 443))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", mixed)
    assert await resolve_public("flips.example", 443) == ("8.8.8.8",)
