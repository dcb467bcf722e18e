"""Who last heard the same of a subject, and need not hear it again."""

from collections.abc import Mapping

import pytest

from tidings.model.subject import PriorDelivery, ReceiptStatus, SubjectNotification, find_informed_users

EIGHT, NINE, TEN = {"start": "20:00"}, {"start": "21:00"}, {"start": "22:00"}
State = Mapping[str, object] | None
STATUS = {True: ReceiptStatus.INFORMED, False: ReceiptStatus.UNSENT, None: ReceiptStatus.UNKNOWN}


def told(version: int, state: State, previous: State, *, name: str = "") -> SubjectNotification:
    return SubjectNotification(name or f"n{version}", "NEWS", version, state, previous, False, False, None, False)


#: 20:00 is announced, moved to 21:00, then to 22:00
ANNOUNCED, MOVED, MOVED_AGAIN = told(1, EIGHT, None), told(2, NINE, EIGHT), told(3, TEN, NINE)


@pytest.mark.parametrize(
    ("state", "previous", "older", "sent", "expected"),
    [
        pytest.param(EIGHT, NINE, [MOVED, ANNOUNCED], {"n1": True, "n2": False}, True, id="back before it was sent"),
        pytest.param(EIGHT, NINE, [MOVED, ANNOUNCED], {"n1": True, "n2": True}, False, id="back after it was sent"),
        pytest.param(EIGHT, NINE, [MOVED], {"n2": False}, True, id="knew it without a notification"),
        pytest.param(EIGHT, NINE, [MOVED], {}, False, id="came after the change"),
        pytest.param(EIGHT, TEN, [MOVED_AGAIN, MOVED], {"n2": False, "n3": False}, True, id="back after two unsent"),
        pytest.param(NINE, TEN, [MOVED_AGAIN, MOVED], {"n2": True, "n3": False}, True, id="heard the first of two"),
        pytest.param(NINE, TEN, [MOVED_AGAIN, MOVED], {"n2": False, "n3": False}, False, id="missed the first of two"),
        pytest.param(EIGHT, NINE, [MOVED], {"n2": None}, False, id="may have heard of the change"),
        pytest.param(TEN, EIGHT, [ANNOUNCED], {"n1": True}, False, id="a real change"),
        pytest.param(EIGHT, NINE, [MOVED_AGAIN, ANNOUNCED], {"n1": True, "n3": False}, False, id="an unknown change"),
        pytest.param(None, NINE, [MOVED], {"n2": False}, False, id="without a state"),
        pytest.param(EIGHT, None, [MOVED], {"n2": False}, False, id="without a previous state"),
    ],
)
def test_a_user_who_last_heard_the_same_is_informed(
    state: State, previous: State, older: list[SubjectNotification], sent: dict[str, bool | None], expected: bool
) -> None:
    received = [PriorDelivery("ana", notification_id, STATUS[was_sent]) for notification_id, was_sent in sent.items()]
    assert ("ana" in find_informed_users(state, previous, older, received)) is expected


def test_notifications_of_one_version_are_for_different_users() -> None:
    older = [told(2, NINE, EIGHT, name="others"), told(2, NINE, EIGHT, name="holders")]
    received = [PriorDelivery("ana", "holders", STATUS[False]), PriorDelivery("ben", "others", STATUS[True])]
    assert find_informed_users(EIGHT, NINE, older, received) == {"ana"}


def test_a_message_sent_to_one_of_two_devices_was_heard() -> None:
    received = [PriorDelivery("ana", "n2", STATUS[True]), PriorDelivery("ana", "n2", STATUS[False])]
    assert find_informed_users(EIGHT, NINE, [MOVED], received) == set()
