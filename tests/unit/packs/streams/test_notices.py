"""Whether a host is notified of an end at once, later with others, or not at all."""

from datetime import UTC, datetime, timedelta

import pytest

from tidings.model.audience import to_json
from tidings.model.stream import StreamEpoch, StreamEvent
from tidings.packs.streams.notices import (
    FLAP_WINDOW,
    GROUP_WINDOW,
    STABLE_FOR,
    NoNotice,
    Notice,
    NotifyLater,
    NotifyNow,
    build_end_notice,
    build_grouped_notice,
    decide_notice,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
JAZZ = StreamEvent("jazz", "Jazz night", "host", is_public=True)


def ended(
    event_id: str, ago: timedelta, *, notice: Notice = Notice.SENT, due_in: timedelta | None = None
) -> StreamEpoch:
    due_at = None if due_in is None else NOW + due_in
    return StreamEpoch(event_id, 1, NOW - 2 * ago, ended_at=NOW - ago, notice=notice, notice_due_at=due_at)


def decide(*recent: StreamEpoch) -> NotifyNow | NotifyLater | NoNotice:
    return decide_notice(JAZZ, has_host=True, recent=recent, event_id="jazz", now=NOW)


@pytest.mark.parametrize(
    ("event", "has_host", "reason"),
    [
        (None, False, Notice.EVENT_MISSING),
        (StreamEvent("jazz", "Jazz", "host", is_public=False), True, Notice.EVENT_NOT_PUBLIC),
        (StreamEvent("jazz", "Jazz", None, is_public=True), False, Notice.HOST_UNKNOWN),
        (JAZZ, False, Notice.HOST_UNKNOWN),
    ],
)
def test_e14_an_end_without_event_or_host_is_recorded_and_not_notified(
    event: StreamEvent | None, has_host: bool, reason: Notice
) -> None:
    decision = decide_notice(event, has_host=has_host, recent=[], event_id="jazz", now=NOW)
    assert decision == NoNotice(reason)


def test_the_first_end_is_notified_at_once() -> None:
    assert decide() == NotifyNow()
    assert decide(ended("rock", GROUP_WINDOW)) == NotifyNow()
    assert decide(ended("jazz", 61 * MINUTE), ended("jazz", 62 * MINUTE)) == NotifyNow()


def test_further_ends_of_a_host_are_grouped_until_the_window_closes() -> None:
    assert decide(ended("rock", 4 * MINUTE)) == NotifyLater(NOW + 6 * MINUTE)
    waiting = ended("folk", 2 * MINUTE, notice=Notice.GROUPED, due_in=3 * MINUTE)
    assert decide(ended("rock", 7 * MINUTE), waiting) == NotifyLater(NOW + 3 * MINUTE)


def test_e13_the_third_end_within_an_hour_waits_until_the_stream_is_stable() -> None:
    twice = ended("jazz", 50 * MINUTE), ended("jazz", 30 * MINUTE)
    assert decide(*twice) == NotifyLater(NOW + STABLE_FOR)
    # but not for ever: an hour after the first of them
    assert decide(ended("jazz", 55 * MINUTE), ended("jazz", 3 * MINUTE)) == NotifyLater(NOW - 55 * MINUTE + FLAP_WINDOW)


def test_e01_a_notice_is_keyed_by_event_and_epoch_and_links_to_the_dashboard() -> None:
    notice = build_end_notice(JAZZ, 7, NOW)
    assert notice.source == "stream:jazz:7"
    assert to_json(notice.audience) == {"kind": "stream_host", "eventId": "jazz", "epoch": "7"}
    assert (notice.action_url, notice.action_text) == ("/events/jazz", "View Event Dashboard")


def test_a_grouped_notice_reaches_the_host_while_any_of_its_streams_is_over() -> None:
    rock = StreamEvent("rock", "Rock", "host", is_public=True)
    notice = build_grouped_notice([(JAZZ, 7, 3), (rock, 1, 1)], NOW)
    assert to_json(notice.audience) == {
        "or": [
            {"kind": "stream_host", "eventId": "jazz", "epoch": "7"},
            {"kind": "stream_host", "eventId": "rock", "epoch": "1"},
        ]
    }
    assert notice.variables["streams"] == [{"title": "Jazz night", "ends": 3}, {"title": "Rock", "ends": 1}]
    assert (notice.variables["interruptions"], notice.action_url) == (4, "/events")
