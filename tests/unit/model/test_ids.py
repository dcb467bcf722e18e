"""Ids sort by creation time and are UUIDs of version 7 (RFC 9562 §5.7)."""

import threading
import uuid
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tidings.model.ids import new_id

NOW = datetime(2026, 11, 22, 12, 0, 0, 123_456, tzinfo=UTC)


@given(st.lists(st.integers(0, 3_000), min_size=2, max_size=50))
def test_ids_sort_in_the_order_they_were_made_even_when_the_clock_steps_back(offsets: list[int]) -> None:
    made = [new_id(NOW + timedelta(microseconds=offset)) for offset in offsets]
    assert made == sorted(set(made))


def test_an_id_is_a_uuid_of_version_7_with_its_time_in_milliseconds() -> None:
    # later than the ids of other tests, because ids never go back
    now = datetime(2027, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    made = uuid.UUID(text := new_id(now))
    assert (made.version, made.variant, str(made)) == (7, uuid.RFC_4122, text)
    assert made.int >> 80 == int(now.timestamp() * 1000)


def test_ids_made_in_one_instant_differ_in_their_random_tail_too() -> None:
    tails = {new_id(NOW)[24:] for _ in range(100)}
    assert len(tails) == 100


def test_threads_never_get_the_same_id() -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(new_id(NOW) for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2_000
