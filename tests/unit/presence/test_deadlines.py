"""Deadlines come out in order, once, however often they moved, and leave no heap behind."""

from datetime import datetime, timedelta
from random import Random

from tidings.presence.deadlines import FEW, Deadlines
from tidings.testing.clock import START

SECOND = timedelta(seconds=1)


def test_they_come_in_order_and_not_before_their_time() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for key, after in (("late", 9), ("first", 1), ("second", 2)):
        deadlines.set(key, START + after * SECOND)
    assert deadlines.take(START) == []
    assert deadlines.take(START + 2 * SECOND) == ["first", "second"]
    assert deadlines.take(START + 9 * SECOND) == ["late"]
    assert len(deadlines) == 0


def test_no_more_are_taken_than_asked_for() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for key in range(5):
        deadlines.set(key, START + key * SECOND)
    assert [deadlines.take(START + 9 * SECOND, 2) for _ in range(4)] == [[0, 1], [2, 3], [4], []]


def test_one_that_moved_comes_at_its_last_time_only() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for after in (5, 9, 2, 7):
        deadlines.set("a", START + after * SECOND)
    assert deadlines.take(START + 6 * SECOND) == []
    assert deadlines.take(START + 7 * SECOND) == ["a"]
    assert deadlines.take(START + 99 * SECOND) == []


def test_one_that_was_dropped_does_not_come() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("a", START)
    deadlines.drop("a")
    deadlines.drop("unknown")
    assert deadlines.take(START) == []
    deadlines.set("a", START + SECOND)
    assert deadlines.take(START + SECOND) == ["a"]


def test_heartbeats_and_short_visits_do_not_fill_the_memory() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for beat in range(200):
        for key in range(50):
            deadlines.set(key, START + beat * SECOND)
    assert len(deadlines._heap) == 50
    for visit in range(10 * FEW):
        deadlines.set(visit, START + timedelta(days=1))
        deadlines.drop(visit)
    assert len(deadlines._heap) <= 2 * 50 + FEW + 1
    assert len(deadlines._entered) <= len(deadlines._heap)


def test_any_moves_give_what_a_plain_table_would() -> None:
    random, deadlines, plain = Random(1), Deadlines[int](), dict[int, datetime]()  # the same again each time
    now = START
    for _ in range(20_000):
        key, step = random.randrange(40), random.random()
        if step < 0.6:
            plain[key] = now + random.randrange(-5, 60) * SECOND
            deadlines.set(key, plain[key])
        elif step < 0.8:
            plain.pop(key, None)
            deadlines.drop(key)
        else:
            now += random.randrange(-20, 30) * SECOND
            due = {key for key, at in plain.items() if at <= now}
            assert set(deadlines.take(now)) == due
            plain = {key: at for key, at in plain.items() if key not in due}
    assert len(deadlines) == len(plain)
