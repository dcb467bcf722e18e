"""The user's own time of day replaces that of a digest."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tidings.flow.plan.collection import DigestCollection
from tidings.model.plan_options import DigestOptions, PlanOptions
from tidings.model.priority import Priority
from tidings.testing.contracts.samples import make_notification

#: a Tuesday
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "digest_at", "closes_at"),
    [
        (DigestOptions(at="08:00"), None, datetime(2026, 11, 25, 7, tzinfo=UTC)),
        (DigestOptions(at="08:00"), "18:30", datetime(2026, 11, 24, 17, 30, tzinfo=UTC)),
        (DigestOptions(at="MON 08:00"), "18:30", datetime(2026, 11, 30, 17, 30, tzinfo=UTC)),
        (DigestOptions(window_seconds=600), "18:30", datetime(2026, 11, 24, 12, 10, tzinfo=UTC)),
    ],
)
def test_a_digest_at_a_time_of_day_closes_at_the_time_of_the_user(
    options: DigestOptions, digest_at: str | None, closes_at: datetime
) -> None:
    notification = replace(make_notification(), priority=Priority.NORMAL, plan=PlanOptions(digest=options))
    collection = DigestCollection.for_notification(notification)
    assert collection is not None
    item = collection.collect("ana", "Europe/Berlin", NOW, (), (), digest_at=digest_at)
    assert item.window.closes_at == closes_at
