"""Rate limits."""

from types import SimpleNamespace
from typing import cast

import pytest
from fastapi import Request

from tidings.api import rates
from tidings.api.rates import Bucket, Rate, address_of


def test_a_quiet_caller_may_make_all_calls_at_once_and_then_waits() -> None:
    bucket = Bucket(Rate(3, 60))
    rooms = [bucket.take("a", 1000.0) for _ in range(4)]
    assert [room.allowed for room in rooms] == [True, True, True, False]
    assert [room.remaining for room in rooms] == [2, 1, 0, 0]
    assert rooms[3].retry_after == pytest.approx(20)


def test_room_comes_back_at_the_rate() -> None:
    bucket = Bucket(Rate(3, 60))
    for _ in range(3):
        bucket.take("a", 1000.0)
    assert not bucket.take("a", 1019.9).allowed
    assert bucket.take("a", 1020.1).allowed
    assert not bucket.take("a", 1020.1).allowed


def test_callers_do_not_share() -> None:
    bucket = Bucket(Rate(1, 60))
    assert bucket.take("a", 0.0).allowed
    assert bucket.take("b", 0.0).allowed


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MAX_BUCKETS", 10)
    bucket = Bucket(Rate(1, 60))
    for number in range(100):
        bucket.take(str(number), 0.0)
    assert len(bucket._full_at) == 10


def _from(host: str) -> str:
    return address_of(cast(Request, SimpleNamespace(client=SimpleNamespace(host=host))))


def test_all_addresses_of_one_ipv6_network_are_one_client() -> None:
    assert len({_from(f"2001:db8:1:2:{number:x}::1") for number in range(1000)}) == 1
    assert _from("2001:db8:1:2::1") != _from("2001:db8:1:3::1")


def test_a_mapped_address_is_its_ipv4_address() -> None:
    assert _from("::ffff:192.0.2.1") == _from("192.0.2.1") == "192.0.2.1"
