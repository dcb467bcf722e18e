"""Which messages a suppression stops."""

from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from tidings.model.suppression import Suppression, SuppressionReason, find_suppression
from tidings.model.template import Category
from tidings.testing.clock import START as NOW

NEWS, RESET = Category("NEWS", "News"), Category("RESET", "Password reset", mandatory=True)
BOUNCE = Suppression("s1", "email", SuppressionReason.HARD_BOUNCE, None, NOW, NOW)


def make(reason: SuppressionReason) -> Suppression:
    return structs.replace(BOUNCE, reason=reason)


@pytest.mark.parametrize("reason", SuppressionReason)
def test_c53_every_suppression_stops_optional_messages(reason: SuppressionReason) -> None:
    assert find_suppression([make(reason)], NEWS, (), NOW) == make(reason)


@pytest.mark.parametrize(
    ("reason", "is_stopped"),
    [
        (SuppressionReason.HARD_BOUNCE, True),
        (SuppressionReason.OPT_OUT, True),
        (SuppressionReason.PROVIDER_OPT_OUT, True),
        (SuppressionReason.MANUAL, True),
        (SuppressionReason.SOFT_BOUNCES, False),
        (SuppressionReason.COMPLAINT, False),
        (SuppressionReason.UNSUBSCRIBE, False),
    ],
)
def test_c53_mandatory_messages_are_stopped_only_by_some(reason: SuppressionReason, is_stopped: bool) -> None:
    assert (find_suppression([make(reason)], RESET, (), NOW) is not None) is is_stopped
    both = [make(reason), BOUNCE]
    assert find_suppression(both, RESET, (), NOW) is not None, "a spared reason does not hide another"


def test_c25_an_unsubscription_at_the_provider_spares_mandatory_mail_of_that_channel_only() -> None:
    left = make(SuppressionReason.UNSUBSCRIBE)
    assert find_suppression([left], replace(RESET, mandatory=(left.channel,)), (), NOW) is None
    assert find_suppression([left], replace(RESET, mandatory=("other",)), (), NOW) == left


def test_c53_a_suppression_of_a_category_stops_only_that_category() -> None:
    one = structs.replace(make(SuppressionReason.UNSUBSCRIBE), category="NEWS")
    assert find_suppression([one], NEWS, (), NOW) == one
    assert find_suppression([one], replace(NEWS, code="OFFERS"), (), NOW) is None
    assert (one.scope, BOUNCE.scope) == ("category", "all")


def test_c55_a_suppression_with_an_expiry_ends() -> None:
    one = structs.replace(make(SuppressionReason.SOFT_BOUNCES), expires_at=NOW)
    assert find_suppression([one], NEWS, (), NOW - timedelta(seconds=1)) == one
    assert find_suppression([one], NEWS, (), NOW) is None
    assert "until" in one.describe()


def test_c56_a_lifted_suppression_stops_nothing() -> None:
    assert find_suppression([structs.replace(BOUNCE, lifted_at=NOW)], NEWS, (), NOW) is None


@pytest.mark.parametrize(
    ("sender", "senders", "is_stopped"),
    [
        ("", (), True),
        ("", ("+15005550006",), True),
        ("+15005550006", ("15005550006",), True),
        ("MG1", ("+15005550006", "mg1"), True),
        ("+15005550006", ("+15005550007",), False),
    ],
)
def test_c66_an_opt_out_holds_for_its_sender(sender: str, senders: tuple[str, ...], is_stopped: bool) -> None:
    one = structs.replace(make(SuppressionReason.OPT_OUT), sender=sender)
    assert (find_suppression([one], NEWS, senders, NOW) is not None) is is_stopped


def test_the_most_recent_suppression_is_named() -> None:
    later = structs.replace(make(SuppressionReason.MANUAL), id="s0", last_event_at=NOW + timedelta(1))
    assert find_suppression([later, BOUNCE], NEWS, (), NOW) == later
