"""What bounces say of the address: a corpus of the texts that mail servers write."""

import pytest

from tidings.channels.email.hooks.bounce_policy import classify_bounce, find_status_code
from tidings.model.receipt import EventCause

HARD, SOFT, POLICY = EventCause.HARD_BOUNCE, EventCause.SOFT_BOUNCE, EventCause.POLICY_BOUNCE


@pytest.mark.parametrize(
    ("code", "text", "cause"),
    [
        # the address does not exist
        ("5.1.1", "", HARD),
        (None, "smtp; 550-5.1.1 The email account that you tried to reach does not exist.", HARD),
        (None, "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", HARD),
        ("5.1.2", "host unknown", HARD),
        ("5.1.0", "", HARD),
        ("5.0.0", "550 No such user here", HARD),
        (None, "550 Requested action not taken: mailbox unavailable: user unknown", HARD),
        # 5.1.7 and 5.1.8 are about the sender
        ("5.1.8", "sender address rejected", SOFT),
        # passes: full, busy, disabled, greylisted, no route
        ("5.2.2", "552 5.2.2 The recipient's inbox is out of storage space", SOFT),
        ("4.2.2", "mailbox full", SOFT),
        (None, "452 4.2.2 The email account that you tried to reach is over quota", SOFT),
        ("4.4.7", "delivery time expired", SOFT),
        (None, "451 4.7.1 Greylisting in action, please come back later", POLICY),
        ("5.4.4", "no route", SOFT),
        ("5.2.1", "550 5.2.1 The email account is disabled", SOFT),
        ("4.1.1", "450 4.1.1 recipient address rejected: unverified address", SOFT),
        # a policy: says nothing of the address
        ("5.7.1", "550 5.7.1 Message rejected due to local policy", POLICY),
        (
            None,
            "smtp; 550-5.7.26 Unauthenticated email from jazz.example is not accepted due to domain's DMARC",
            POLICY,
        ),
        ("5.7.515", "", POLICY),
        # unclear
        (None, "", SOFT),
        (None, "554 delivery error: dd This user doesn't have a yahoo.com account", SOFT),
        ("garbage", "the server at 192.0.2.5.1.1 did not answer", SOFT),
    ],
)
def test_c55_what_a_bounce_says_of_the_address(code: str | None, text: str, cause: EventCause) -> None:
    assert classify_bounce(code, text) is cause


def test_a_status_code_is_found_anywhere_but_in_an_address() -> None:
    assert find_status_code(None, "smtp; 550-5.1.1 The account") == "5.1.1"
    assert find_status_code("5.0.0", "550 5.2.2 full") == "5.2.2"
    assert find_status_code("host 10.4.2.1 said no", None) is None
