"""Deadlines are returned in order and once, and use bounded memory."""

from random import Random

from tidings.presence.deadlines import MIN_COMPACTION_SIZE, Deadlines

START, SECOND = 1_000.0, 1.0


def test_deadlines_are_returned_in_order_and_not_early() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for key, after in (("late", 9), ("first", 1), ("second", 2)):
        deadlines.set(key, START + after * SECOND)
    assert deadlines.pop_due(START) == []
    assert deadlines.pop_due(START + 2 * SECOND) == ["first", "second"]
    assert deadlines.pop_due(START + 9 * SECOND) == ["late"]
    assert len(deadlines) == 0


def test_no_more_deadlines_are_returned_than_the_limit() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for key in range(5):
        deadlines.set(key, START + key * SECOND)
    assert [deadlines.pop_due(START + 9 * SECOND, 2) for _ in range(4)] == [[0, 1], [2, 3], [4], []]


def test_a_moved_deadline_is_returned_at_its_last_time_only() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for after in (5, 9, 2, 7):
        deadlines.set("a", START + after * SECOND)
    assert deadlines.pop_due(START + 6 * SECOND) == []
    assert deadlines.pop_due(START + 7 * SECOND) == ["a"]
    assert deadlines.pop_due(START + 99 * SECOND) == []


def test_a_dropped_deadline_is_not_returned() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("a", START)
    deadlines.drop("a")
    deadlines.drop("unknown")
    assert deadlines.pop_due(START) == []
    deadlines.set("a", START + SECOND)
    assert deadlines.pop_due(START + SECOND) == ["a"]


def test_heartbeats_and_short_visits_do_not_fill_the_memory() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for beat in range(200):
        for key in range(50):
            deadlines.set(key, START + beat * SECOND)
    assert len(deadlines._heap) == 50
    for visit in range(10 * MIN_COMPACTION_SIZE):
        deadlines.set(visit, START + 86_400 * SECOND)
        deadlines.drop(visit)
    assert len(deadlines._heap) <= 2 * 50 + MIN_COMPACTION_SIZE + 1
    assert len(deadlines._earliest_entries) <= len(deadlines._heap)


def test_any_sequence_of_moves_matches_a_plain_table() -> None:
    random, deadlines, plain = Random(1), Deadlines[int](), dict[int, float]()  # the same sequence in each run
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
            assert set(deadlines.pop_due(now)) == due
            plain = {key: at for key, at in plain.items() if key not in due}
    assert len(deadlines) == len(plain)
