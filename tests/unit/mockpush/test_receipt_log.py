"""Counts of distinct and repeated receipts, in little memory, readable while more arrive."""

import asyncio
import sys

from hypothesis import given
from hypothesis import strategies as st

from tidings.mockpush.receipt_log import DigestSet, ReceiptLog


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
    # each of the 65 536 buckets takes 65 bytes, also when empty
    assert (size - 65 * len(buckets)) / 300_000 < 24


def accept(log: ReceiptLog, *receipts: tuple[str, str]) -> None:
    for device, topic in receipts:
        log.record_accepted(device, topic, b"", 0.0, verified=False)


def test_the_same_device_and_topic_is_a_duplicate() -> None:
    log = ReceiptLog(10)
    accept(log, ("a", "t"), ("a", "t"), ("a", "u"), ("b", "t"), ("a", "t"))
    stats = log.stats()
    assert (stats.accepted, stats.distinct, stats.duplicates) == (5, 3, 2)
    assert sorted(row for chunk in log.receipts() for row in chunk) == [("a", "t", 3), ("a", "u", 1), ("b", "t", 1)]
    log.close()


def test_without_a_topic_nothing_is_a_duplicate() -> None:
    log = ReceiptLog(10)
    accept(log, ("a", ""), ("a", ""))
    assert log.stats().distinct == 2
    log.close()


def test_receipts_can_be_read_while_more_arrive() -> None:
    log = ReceiptLog(1)
    accept(log, *((f"u{n}", "t") for n in range(60_000)))
    chunks = log.receipts()
    rows = list(next(chunks))
    accept(log, ("late", "t"))
    rows += [row for chunk in chunks for row in chunk]
    assert len(rows) == 60_000
    accept(log, ("later", "t"))
    assert sum(len(chunk) for chunk in log.receipts()) == 60_002
    log.close()


def test_a_long_log_is_counted_in_shares() -> None:
    log = ReceiptLog(1)
    accept(log, *((f"u{n % 100_000}", "t") for n in range(300_000)))
    counts = {device: count for chunk in log.receipts() for device, _, count in chunk}
    assert len(counts) == 100_000
    assert set(counts.values()) == {3}
    log.close()


def test_only_the_last_messages_are_kept_and_can_be_paged() -> None:
    log = ReceiptLog(3)
    accept(log, *((f"u{n}", "t") for n in range(1, 6)))
    assert [m.device for m in log.list_messages(limit=2)] == ["u4", "u5"]
    assert [m.device for m in log.list_messages(limit=2, after=0)] == ["u3", "u4"]
    assert [m.device for m in log.list_messages(limit=9, after=4)] == ["u5"]
    assert [m.device for m in log.list_messages(limit=9, device="u4")] == ["u4"]
    log.close()


def test_a_reset_forgets_everything() -> None:
    log = ReceiptLog(3)
    accept(log, ("a", "t"))
    log.count_received(1.0)
    log.reset()
    accept(log, ("b", "t"))
    stats = log.stats()
    assert (stats.received, stats.accepted, stats.distinct, stats.first_at) == (0, 1, 1, None)
    assert [row for chunk in log.receipts() for row in chunk] == [("b", "t", 1)]
    log.close()


async def test_a_waiter_is_woken_by_the_message_it_waits_for() -> None:
    log = ReceiptLog(3)
    waiting = asyncio.create_task(log.wait("distinct", 2))
    for topic in ("t", "t", "u"):
        assert not waiting.done()
        log.record_accepted("a", topic, b"", 0.0, verified=False)
        log.count_response("201")
        await asyncio.sleep(0)
    await asyncio.wait_for(waiting, 1)
    log.close()
