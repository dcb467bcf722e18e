"""Rules that turn what a relay replied into an outcome, or into a failure of the relay (RFC 5321, RFC 3463). Pure.

A refusal about the recipient never goes to another relay. A refusal about the relay, its login or its limits does. A
recipient is suppressed only for replies that say that the address does not exist (5.1.x).
"""

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from tidings.channels.email.smtp_exchange import SmtpExchange, SmtpReply, Stage
from tidings.model.outcome import (
    MAX_ATTEMPTS,
    Accepted,
    InvalidTarget,
    Outcome,
    PermanentFailure,
    RetryLater,
    Uncertain,
)
from tidings.model.suppression import SuppressionReason

#: before the 2nd, 3rd and 4th attempt. Relays that greylist accept a message after some minutes
RETRY_DELAYS: Final = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15))
#: a relay that greylists is not tried again sooner
GREYLIST_DELAY: Final = timedelta(minutes=5)
#: maximum random addition to a wait
JITTER_SHARE: Final = 0.25

#: the address does not exist (RFC 3463 §3.2); 5.1.7 and 5.1.8 are about the sender
_UNKNOWN_ADDRESS: Final = frozenset({"5.1.0", "5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10"})
_SPEAKS_OF_UNKNOWN_ADDRESS: Final = re.compile(
    r"(user|mailbox|recipient|address|account)\b.{0,40}\b(unknown|not (?:be )?found|does ?n.t exist|does not exist|"
    r"invalid|not exist|no longer (?:valid|exists)|not known)|"
    r"(no such|unknown|invalid|non-?existent) (user|mailbox|recipient|address|account|local part)|"
    r"no mailbox (?:here )?by that name",
    re.IGNORECASE,
)
_SPEAKS_OF_FULL_MAILBOX: Final = re.compile(
    r"(mailbox|inbox|user|recipient|account)\b.{0,40}\b(full|over ?quota|quota exceeded|exceeded (?:its |the )?quota)",
    re.IGNORECASE,
)
#: the relay refuses this server, not the recipient
_SPEAKS_OF_RELAY: Final = re.compile(
    r"relay(?:ing)?\b.{0,30}\b(denied|not permitted|not allowed|prohibited)|"
    r"(unable|not allowed|not permitted) to relay|"
    r"(authentication|authorization) (?:is )?required|not authenticated|"
    r"\b(sender|from)\b.{0,40}\b(not verified|not owned|not allowed|not permitted|rejected|denied|unverified)|"
    r"blocked using|block ?list|black ?list|\bspamhaus\b|\bdnsbl\b|\bquota\b.{0,30}\b(sending|daily|messages)|"
    r"(daily|hourly|sending|account).{0,20}\b(limit|quota)|account (?:is )?(suspended|disabled|blocked|on hold)",
    re.IGNORECASE,
)
_SPEAKS_OF_RATE: Final = re.compile(
    r"\brate\b|too (many|fast|much)|throttl|slow down|temporarily deferred|try again later.*\blimit|\blimit exceeded",
    re.IGNORECASE,
)
_SPEAKS_OF_GREYLIST: Final = re.compile(r"gr[ae]y-?list|\bpostgrey\b", re.IGNORECASE)
#: login and TLS requirements (RFC 4954 §6)
_LOGIN_CODES: Final = frozenset({530, 534, 535, 538})


class RelayFailureKind(StrEnum):
    """Why a relay did not take a message, for a cause that is not the recipient."""

    #: no connection, no reply, or a connection that ended
    UNREACHABLE = "unreachable"
    #: it asks to be sent less
    THROTTLED = "throttled"
    #: it is out of order: 4xx about itself
    FAILING = "failing"
    #: it refuses the login, the sender address or this server; an operator must act
    REFUSED = "refused"
    #: the message is larger than this relay accepts
    TOO_LARGE = "too large"
    #: all connections of this process are in use
    BUSY = "busy"


class RelayFailure(msgspec.Struct, frozen=True):
    """A relay did not take a message, and another relay may."""

    kind: RelayFailureKind
    why: str
    status: int | None = None


class SmtpAttempt(msgspec.Struct, frozen=True):
    """The properties of an attempt that the rules depend on."""

    now: datetime
    #: 1 for the first attempt of the delivery
    number: int
    #: 0 ≤ jitter < 1, random
    jitter: float
    #: name of the relay
    relay: str


def decide_outcome(exchange: SmtpExchange, attempt: SmtpAttempt) -> Outcome | RelayFailure:
    """Return the outcome of an exchange, or the failure of its relay."""
    reply = exchange.reply
    if reply is None:
        if exchange.is_uncertain:
            return Uncertain(f"{attempt.relay} may have accepted the message: {exchange.why}", provider=attempt.relay)
        kind = RelayFailureKind.BUSY if exchange.is_busy else RelayFailureKind.UNREACHABLE
        return RelayFailure(kind, exchange.why)
    if exchange.is_accepted:
        return Accepted(f"accepted by {attempt.relay}", reply.code, attempt.relay, reply.queue_id)
    why = f"{attempt.relay} answered {exchange.stage.value} with {reply}"
    if (kind_of_failure := classify_relay_failure(exchange.stage, reply)) is not None:
        return RelayFailure(kind_of_failure, why, reply.code)
    if not reply.is_permanent:
        return retry_or_give_up(why, reply, attempt, is_soft_bounce=is_mailbox_refusal(exchange.stage, reply))
    if is_unknown_address(reply):
        return InvalidTarget(why, reply.code, "suppress", SuppressionReason.HARD_BOUNCE)
    # a full or disabled mailbox (5.2.x) and an unexplained refusal of the recipient may be over tomorrow: they are
    # counted, and only a target that repeats them is suspended
    enhanced = reply.enhanced or ""
    is_suspect = exchange.stage is Stage.RCPT and (enhanced.startswith("5.2.") or not enhanced)
    is_soft = is_mailbox_refusal(exchange.stage, reply)
    is_content = exchange.stage in (Stage.DATA, Stage.CONTENT) and not is_soft
    return PermanentFailure(
        why, reply.code, operator_alert=is_content, is_target_suspect=is_suspect, is_soft_bounce=is_soft
    )


def classify_relay_failure(stage: Stage, reply: SmtpReply) -> RelayFailureKind | None:
    """Return why a refusal is about the relay, None if it is about the recipient or the message."""
    enhanced = reply.enhanced or ""
    if stage is Stage.AUTH or reply.code in _LOGIN_CODES:
        return RelayFailureKind.REFUSED if reply.is_permanent else RelayFailureKind.FAILING
    if enhanced.endswith((".3.4", ".2.3")) or (
        # 5.2.2: it is the mailbox that is full
        stage in (Stage.MAIL, Stage.CONTENT) and reply.code == 552 and enhanced != "5.2.2"
    ):
        return RelayFailureKind.TOO_LARGE
    if not reply.is_permanent:
        return _classify_temporary(stage, reply, enhanced)
    if stage in (Stage.CONNECT, Stage.MAIL):
        # no recipient was named yet
        return RelayFailureKind.REFUSED
    if enhanced in ("5.1.7", "5.1.8") or _SPEAKS_OF_RELAY.search(reply.text):
        return RelayFailureKind.REFUSED
    if stage is not Stage.CONTENT and (enhanced.startswith(("5.3.", "5.4.", "5.5.")) or 500 <= reply.code < 505):
        return RelayFailureKind.REFUSED
    return None


def is_unknown_address(reply: SmtpReply) -> bool:
    """Whether a reply says that the recipient's address does not exist."""
    if not reply.is_permanent:
        return False
    if reply.enhanced is not None:
        return reply.enhanced in _UNKNOWN_ADDRESS
    return reply.code in (550, 551, 553) and _SPEAKS_OF_UNKNOWN_ADDRESS.search(reply.text) is not None


def is_mailbox_refusal(stage: Stage, reply: SmtpReply) -> bool:
    """Whether a reply is about the recipient's mailbox, for a cause that passes: full, busy or disabled (x.2.x).

    Greylisting (4.7.1, or 450 without a code) is not: it says nothing of the mailbox.
    """
    if stage not in (Stage.RCPT, Stage.CONTENT) or _SPEAKS_OF_GREYLIST.search(reply.text):
        return False
    if reply.enhanced is not None:
        return reply.enhanced.startswith(("4.2.", "5.2."))
    return stage is Stage.RCPT and _SPEAKS_OF_FULL_MAILBOX.search(reply.text) is not None


def retry_or_give_up(
    why: str, reply: SmtpReply, attempt: SmtpAttempt, *, is_soft_bounce: bool = False
) -> RetryLater | PermanentFailure:
    """Return when a message is tried again after a temporary refusal that is about the recipient."""
    if attempt.number >= MAX_ATTEMPTS:
        why = f"gave up after {attempt.number} attempts: {why}"
        return PermanentFailure(why, reply.code, is_soft_bounce=is_soft_bounce)
    wait = RETRY_DELAYS[max(0, min(attempt.number, len(RETRY_DELAYS)) - 1)]
    if _SPEAKS_OF_GREYLIST.search(reply.text) or reply.enhanced == "4.7.1":
        wait = max(wait, GREYLIST_DELAY)
    until = attempt.now + wait * (1 + JITTER_SHARE * attempt.jitter)
    return RetryLater(until, why, reply.code, is_soft_bounce=is_soft_bounce)


def _classify_temporary(stage: Stage, reply: SmtpReply, enhanced: str) -> RelayFailureKind | None:
    if reply.code == 421 or (_SPEAKS_OF_RATE.search(reply.text) and not _SPEAKS_OF_GREYLIST.search(reply.text)):
        return RelayFailureKind.THROTTLED
    if stage is Stage.RCPT and not enhanced.startswith(("4.3.", "4.5.")):
        # 450, 451, 452 and 4.2.x, 4.7.1: the mailbox is busy or full, or the relay greylists
        return None
    return RelayFailureKind.FAILING
