"""What a relay's reply means for the recipient, the message and the relay."""

from datetime import timedelta

import pytest

from tidings.channels.email.reply_policy import (
    RelayFailure,
    RelayFailureKind,
    SmtpAttempt,
    decide_outcome,
)
from tidings.channels.email.smtp_exchange import SmtpExchange, SmtpReply, Stage
from tidings.model.outcome import MAX_ATTEMPTS, Accepted, InvalidTarget, PermanentFailure, RetryLater, Uncertain
from tidings.testing.clock import START


def decide(stage: Stage, line: str, number: int = 1) -> object:
    code, _, text = line.partition(" ")
    return decide_outcome(
        SmtpExchange(stage, SmtpReply(int(code), text)), SmtpAttempt(START, number, 0.0, "mail.test:587")
    )


@pytest.mark.parametrize(
    "line",
    [
        "550 5.1.1 <ann@example.com>: Recipient address rejected: User unknown in virtual mailbox table",
        "550 5.1.1 The email account that you tried to reach does not exist",
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound",
        "550 5.1.2 Host unknown",
        "556 5.1.10 null MX",
        "550 No such user here",
        "550 Unknown user",
        "551 user does not exist",
        "553 sorry, this recipient is not known here: invalid mailbox",
    ],
)
def test_an_unknown_address_ends_the_target_and_stays_at_this_relay(line: str) -> None:
    assert isinstance(decide(Stage.RCPT, line), InvalidTarget)


@pytest.mark.parametrize(
    "line",
    [
        "552 5.2.2 mailbox full",
        "550 5.7.1 message refused by policy",
        "550 5.2.1 mailbox disabled",
        "554 5.7.1 <ann@example.com>: Recipient address rejected: Access denied",
        "550 mailbox unavailable",
        "550 5.7.26 unauthenticated mail",
    ],
)
def test_a_full_mailbox_and_a_policy_do_not_end_the_target(line: str) -> None:
    assert isinstance(decide(Stage.RCPT, line), PermanentFailure)


@pytest.mark.parametrize(
    ("stage", "line", "kind"),
    [
        (Stage.CONNECT, "554 5.7.1 your address is blocked", RelayFailureKind.REFUSED),
        (Stage.CONNECT, "421 4.3.2 too many connections", RelayFailureKind.THROTTLED),
        (Stage.CONNECT, "450 4.3.2 not ready", RelayFailureKind.FAILING),
        (Stage.AUTH, "535 5.7.8 authentication failed", RelayFailureKind.REFUSED),
        (Stage.AUTH, "454 4.7.0 temporary authentication failure", RelayFailureKind.FAILING),
        (Stage.MAIL, "550 5.1.8 sender domain does not exist", RelayFailureKind.REFUSED),
        (Stage.MAIL, "530 5.7.0 must issue STARTTLS first", RelayFailureKind.REFUSED),
        (Stage.MAIL, "452 4.3.1 insufficient storage", RelayFailureKind.FAILING),
        (Stage.MAIL, "552 5.3.4 message too big", RelayFailureKind.TOO_LARGE),
        (Stage.RCPT, "554 5.7.1 <ann@example.com>: Relay access denied", RelayFailureKind.REFUSED),
        (Stage.RCPT, "550 5.7.60 SMTP; client does not have permissions; relaying denied", RelayFailureKind.REFUSED),
        (Stage.RCPT, "553 5.7.1 Sender address rejected: not owned by user news", RelayFailureKind.REFUSED),
        (Stage.RCPT, "503 5.5.1 bad sequence", RelayFailureKind.REFUSED),
        (Stage.RCPT, "450 4.7.1 rate limit exceeded", RelayFailureKind.THROTTLED),
        (Stage.RCPT, "451 4.3.0 queue file write error", RelayFailureKind.FAILING),
        (Stage.CONTENT, "451 4.3.0 try again", RelayFailureKind.FAILING),
        (Stage.CONTENT, "552 5.3.4 message size exceeds limit", RelayFailureKind.TOO_LARGE),
        (Stage.CONTENT, "550 5.4.5 Daily sending quota exceeded", RelayFailureKind.REFUSED),
        (Stage.CONTENT, "421 4.7.0 slow down", RelayFailureKind.THROTTLED),
    ],
)
def test_a_refusal_about_the_relay_leaves_the_message_to_another_one(
    stage: Stage, line: str, kind: RelayFailureKind
) -> None:
    result = decide(stage, line)
    assert isinstance(result, RelayFailure)
    assert result.kind is kind


@pytest.mark.parametrize(
    ("line", "minutes"),
    [
        ("450 4.2.1 mailbox busy", 1),
        ("451 4.7.1 Greylisting in action, try again later", 5),
        ("450 4.2.0 Recipient address rejected: Greylisted, rate 1/min", 5),
        ("452 4.2.2 mailbox full", 1),
    ],
)
def test_a_temporary_refusal_of_the_recipient_is_retried_later(line: str, minutes: int) -> None:
    outcome = decide(Stage.RCPT, line)
    assert isinstance(outcome, RetryLater)
    assert outcome.until == START + timedelta(minutes=minutes)
    assert outcome.counts_as_attempt


def test_temporary_refusals_end_after_four_attempts() -> None:
    assert isinstance(decide(Stage.RCPT, "450 4.2.1 mailbox busy", number=3), RetryLater)
    assert isinstance(decide(Stage.RCPT, "450 4.2.1 mailbox busy", number=4), PermanentFailure)


def test_refused_content_is_final_and_reported() -> None:
    outcome = decide(Stage.CONTENT, "554 5.7.1 rejected as spam")
    assert isinstance(outcome, PermanentFailure)
    assert outcome.operator_alert
    assert not outcome.is_target_suspect


def test_an_accepted_message_has_the_id_of_the_relay() -> None:
    outcome = decide(Stage.CONTENT, "250 2.0.0 Ok: queued as 4XyZ12")
    assert outcome == Accepted("accepted by mail.test:587", 250, "mail.test:587", "4XyZ12")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.0.0 Ok: queued as 4XyZ12", "4XyZ12"),
        ("Ok 010201890abcdef-1234-000000", "010201890abcdef-1234-000000"),
        ("OK id=1qAbCd-0001", "1qAbCd-0001"),
        ("2.6.0 <abc@mail.test> Queued mail for delivery", None),
        ("OK", None),
    ],
)
def test_the_queue_id_is_read_from_common_replies(text: str, expected: str | None) -> None:
    assert SmtpReply(250, text).queue_id == expected


def test_a_missing_reply_to_the_message_is_uncertain() -> None:
    exchange = SmtpExchange(Stage.CONTENT, why="no reply to message in time", is_uncertain=True)
    outcome = decide_outcome(exchange, SmtpAttempt(START, 1, 0.0, "mail.test:587"))
    assert isinstance(outcome, Uncertain)
    assert outcome.provider == "mail.test:587"


def test_an_outcome_contains_no_address() -> None:
    outcome = decide(Stage.RCPT, "550 5.1.1 <ann@example.com>: User ann@example.com unknown\nsee https://x.test/?p=1")
    assert isinstance(outcome, InvalidTarget)
    assert "@" not in outcome.why
    assert "\n" not in outcome.why


@pytest.mark.parametrize(
    ("stage", "line", "is_soft"),
    [
        (Stage.RCPT, "552 5.2.2 mailbox full", True),
        (Stage.CONTENT, "552 5.2.2 mailbox full", True),
        (Stage.RCPT, "550 5.2.1 mailbox disabled", True),
        (Stage.RCPT, "552 mailbox for ann is full", True),
        (Stage.RCPT, "452 4.2.2 over quota", True),
        (Stage.RCPT, "450 4.2.1 mailbox busy", True),
        (Stage.RCPT, "450 4.2.0 greylisted, see postgrey", False),
        (Stage.RCPT, "451 4.7.1 try again", False),
        (Stage.RCPT, "450 try again", False),
        (Stage.RCPT, "550 5.7.1 refused by policy", False),
        (Stage.CONTENT, "554 5.6.0 bad content", False),
    ],
)
def test_c55_a_refusal_of_the_mailbox_is_a_soft_bounce(stage: Stage, line: str, is_soft: bool) -> None:
    for number in (1, MAX_ATTEMPTS):
        outcome = decide(stage, line, number)
        assert isinstance(outcome, RetryLater | PermanentFailure)
        assert outcome.is_soft_bounce is is_soft


def test_c55_an_unknown_address_is_no_soft_bounce() -> None:
    assert isinstance(decide(Stage.RCPT, "550 5.1.1 unknown"), InvalidTarget)
