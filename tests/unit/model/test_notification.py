"""A notification's progress advances page by page, and consent follows one table."""

import pytest

from tidings.model.consent import ConsentGranted, check_consent
from tidings.model.delivery import SkipReason
from tidings.model.notification import NotificationState
from tidings.model.template import Category
from tidings.testing.contracts.samples import make_notification


def test_pages_add_up_and_the_last_one_needs_no_cursor() -> None:
    first = make_notification().with_progress(cursor="ben", recipients=2, deliveries=3, skipped=0, is_complete=False)
    last = first.with_progress(cursor="zoe", recipients=1, deliveries=0, skipped=1, is_complete=True)
    assert (first.state, first.cursor) == (NotificationState.FANNING_OUT, "ben")
    assert (last.state, last.cursor) == (NotificationState.FANNED_OUT, None)
    assert (last.recipients, last.deliveries, last.skipped) == (3, 3, 1)


@pytest.mark.parametrize(
    ("choice", "mandatory", "opt_in", "expected"),
    [
        (None, False, False, ConsentGranted("on by default")),
        (True, False, False, ConsentGranted("turned on by the user")),
        (False, False, False, SkipReason.PREFERENCE_OFF),
        (None, False, True, SkipReason.NOT_OPTED_IN),
        (True, False, True, ConsentGranted("turned on by the user")),
        (False, False, True, SkipReason.PREFERENCE_OFF),
        (None, True, False, ConsentGranted("mandatory")),
        (False, True, False, ConsentGranted("mandatory")),
        (False, True, True, ConsentGranted("mandatory")),
    ],
)
def test_mandatory_precedes_the_preference_and_the_preference_the_default(
    choice: bool | None, mandatory: bool, opt_in: bool, expected: ConsentGranted | SkipReason
) -> None:
    assert check_consent(choice, Category("NEWS", "News", mandatory=mandatory, opt_in=opt_in)) == expected
