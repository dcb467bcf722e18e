"""Sizes after a 413, and how long a host's limit is remembered."""

from datetime import timedelta

from tidings.channels.webpush.encryption import DEFAULT_MAX_PAYLOAD
from tidings.channels.webpush.size_limits import (
    BODY_SIZES,
    ENCRYPTION_OVERHEAD,
    REMEMBER_FOR,
    SizeLimits,
    select_smaller_size,
)
from tidings.testing.clock import START


def test_each_step_is_smaller_and_the_steps_end() -> None:
    sizes: list[int] = []
    size = DEFAULT_MAX_PAYLOAD
    while (smaller := select_smaller_size(size)) is not None:
        size = smaller
        sizes.append(size + ENCRYPTION_OVERHEAD)
    assert sizes == [2048, 1536, 1024, 768, 512]
    assert select_smaller_size(10_000) == BODY_SIZES[0] - ENCRYPTION_OVERHEAD


def test_a_limit_is_remembered_per_host_for_a_day() -> None:
    limits = SizeLimits()
    limits.store("https://a.example", 921, START)
    assert limits.get("https://a.example", START + REMEMBER_FOR - timedelta(seconds=1)) == 921
    assert limits.get("https://b.example", START) is None
    assert limits.get("https://a.example", START + REMEMBER_FOR) is None
    assert limits.get("https://a.example", START - timedelta(seconds=1)) is None, "the clock was set back"
