"""Counting: distinct and repeated receipts, in little memory, readable while more arrive."""

import asyncio
import sys

from hypothesis import given
from hypothesis import strategies as st

from tidings.testing.mock_push.digest_set import DigestSet
from tidings.testing.mock_push.ledger import Ledger


@given(st.lists(st.binary(max_size=3)))
def test_a_digest_set_counts_like_a_set(keys: list[bytes]) -> None:
    compact, plain = DigestSet(), set[bytes]()
    for key in keys:
        assert compact.add(key) == (key not in plain)
        plain.add(key)
    assert len(compact) == len(plain)


def test_a_digest_set_takes_less_than_24_bytes_a_member() -> None:
    compact = DigestSet()
    for number in range(300_000):
        compact.add(b"%d" % number)
    buckets = compact._buckets
    size = sys.getsizeof(buckets) + sum(sys.getsizeof(bucket) for bucket in buckets if bucket is not None)
    # the 65 536 buckets cost 65 bytes each however little they hold
    assert (size - 65 * len(buckets)) / 300_000 < 24


def accept(ledger: Ledger, *receipts: tuple[str, str]) -> None:
    for device, topic in receipts:
        ledger.accept(device, topic, b"", 0.0, verified=False)


def test_the_same_device_and_topic_is_a_duplicate() -> None:
    ledger = Ledger(10)
    accept(ledger, ("a", "t"), ("a", "t"), ("a", "u"), ("b", "t"), ("a", "t"))
    stats = ledger.stats()
    assert (stats.accepted, stats.distinct, stats.duplicates) == (5, 3, 2)
    assert sorted(row for chunk in ledger.receipts() for row in chunk) == [("a", "t", 3), ("a", "u", 1), ("b", "t", 1)]
    ledger.close()


def test_without_a_topic_nothing_is_a_duplicate() -> None:
    ledger = Ledger(10)
    accept(ledger, ("a", ""), ("a", ""))
    assert ledger.stats().distinct == 2
    ledger.close()


def test_receipts_can_be_read_while_more_arrive() -> None:
    ledger = Ledger(1)
    accept(ledger, *((f"u{n}", "t") for n in range(60_000)))
    chunks = ledger.receipts()
    rows = list(next(chunks))
    accept(ledger, ("late", "t"))
    rows += [row for chunk in chunks for row in chunk]
    assert len(rows) == 60_000
    accept(ledger, ("later", "t"))
    assert sum(len(chunk) for chunk in ledger.receipts()) == 60_002
    ledger.close()


def test_a_long_log_is_counted_in_shares() -> None:
    ledger = Ledger(1)
    accept(ledger, *((f"u{n % 100_000}", "t") for n in range(300_000)))
    counts = {device: count for chunk in ledger.receipts() for device, _, count in chunk}
    assert len(counts) == 100_000
    assert set(counts.values()) == {3}
    ledger.close()


def test_only_the_last_messages_are_kept_and_can_be_paged() -> None:
    ledger = Ledger(3)
    accept(ledger, *((f"u{n}", "t") for n in range(1, 6)))
    assert [m.device for m in ledger.arrived(limit=2)] == ["u4", "u5"]
    assert [m.device for m in ledger.arrived(limit=2, after=0)] == ["u3", "u4"]
    assert [m.device for m in ledger.arrived(limit=9, after=4)] == ["u5"]
    assert [m.device for m in ledger.arrived(limit=9, device="u4")] == ["u4"]
    ledger.close()


def test_a_reset_forgets_everything() -> None:
    ledger = Ledger(3)
    accept(ledger, ("a", "t"))
    ledger.arrive(1.0)
    ledger.reset()
    accept(ledger, ("b", "t"))
    stats = ledger.stats()
    assert (stats.received, stats.accepted, stats.distinct, stats.first_at) == (0, 1, 1, None)
    assert [row for chunk in ledger.receipts() for row in chunk] == [("b", "t", 1)]
    ledger.close()


async def test_a_waiter_is_woken_by_the_message_it_waits_for() -> None:
    ledger = Ledger(3)
    waiting = asyncio.create_task(ledger.wait("distinct", 2))
    for topic in ("t", "t", "u"):
        assert not waiting.done()
        ledger.accept("a", topic, b"", 0.0, verified=False)
        ledger.answered("201")
        await asyncio.sleep(0)
    await asyncio.wait_for(waiting, 1)
    ledger.close()
