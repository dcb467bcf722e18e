"""A notification moves on a page at a time, and consent is one table."""

import pytest

from tidings.model.consent import Rule, consent
from tidings.model.delivery import SkipReason
from tidings.model.notification import NotificationState
from tidings.model.template import Category
from tidings.testing.contracts.samples import a_notification


def test_pages_add_up_and_the_last_one_needs_no_cursor() -> None:
    first = a_notification().moved(cursor="ben", recipients=2, deliveries=3, skipped=0, done=False)
    last = first.moved(cursor="zoe", recipients=1, deliveries=0, skipped=1, done=True)
    assert (first.state, first.cursor) == (NotificationState.FANNING_OUT, "ben")
    assert (last.state, last.cursor) == (NotificationState.FANNED_OUT, None)
    assert (last.recipients, last.deliveries, last.skipped) == (3, 3, 1)


@pytest.mark.parametrize(
    ("choice", "mandatory", "opt_in", "expected"),
    [
        (None, False, False, Rule("on by default")),
        (True, False, False, Rule("turned on by the user")),
        (False, False, False, SkipReason.PREFERENCE_OFF),
        (None, False, True, SkipReason.NOT_OPTED_IN),
        (True, False, True, Rule("turned on by the user")),
        (False, False, True, SkipReason.PREFERENCE_OFF),
        (None, True, False, Rule("mandatory")),
        (False, True, False, Rule("mandatory")),
        (False, True, True, Rule("mandatory")),
    ],
)
def test_mandatory_beats_the_user_and_the_user_beats_the_default(
    choice: bool | None, mandatory: bool, opt_in: bool, expected: Rule | SkipReason
) -> None:
    assert consent(choice, Category("NEWS", "News", mandatory=mandatory, opt_in=opt_in)) == expected
