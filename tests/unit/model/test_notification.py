"""A notification's progress advances page by page, and consent follows one table."""

from tidings.model.notification import NotificationState
from tidings.testing.contracts.samples import make_notification


def test_pages_add_up_and_the_last_one_needs_no_cursor() -> None:
    first = make_notification().with_progress(cursor="ben", recipients=2, deliveries=3, skipped=0, is_complete=False)
    last = first.with_progress(cursor="zoe", recipients=1, deliveries=0, skipped=1, is_complete=True)
    assert (first.state, first.cursor) == (NotificationState.FANNING_OUT, "ben")
    assert (last.state, last.cursor) == (NotificationState.FANNED_OUT, None)
    assert (last.recipients, last.deliveries, last.skipped) == (3, 3, 1)
