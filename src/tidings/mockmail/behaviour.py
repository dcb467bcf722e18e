"""Simulated failures of the mock mail service: rules that select the reply to a mail or an SMS."""

from collections.abc import Sequence
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from tidings.errors import ValidationFailed

Milliseconds = Annotated[int, Meta(ge=0, le=600_000)]
Times = Annotated[int, Meta(ge=1)]
#: code and text of an SMTP refusal, in one line
Refusal = Annotated[str, Meta(pattern=r"^[45][0-9]{2} [ -~]{1,400}$")]


class MailRule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """What happens to a mail. In JSON: `{"to": "full@example.org", "reply": "452 4.2.2 mailbox full"}`."""

    #: the recipient; None = every recipient
    to: str | None = None
    #: refusal, such as `550 5.1.1 no such user`; None = the mail is accepted
    reply: Refusal | None = None
    #: where the refusal is sent: after RCPT TO, or after the message
    stage: Literal["rcpt", "message"] = "rcpt"
    #: milliseconds before the reply
    delay_ms: Milliseconds = 0
    #: never reply to the message, and do not accept it
    hang: bool = False
    #: accept the message, then close the connection without a reply
    lost: bool = False
    #: only the first n mails; None = all
    times: Times | None = None


class SmsRule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """What happens to an SMS. In JSON: `{"to": "+15005550101", "status": 400, "code": 21610}`."""

    #: the recipient's number; None = every recipient
    to: str | None = None
    #: HTTP status of a refusal; None = the message is accepted
    status: Annotated[int, Meta(ge=400, le=599)] | None = None
    #: error code of the provider's API
    code: int = 0
    #: seconds of the header `Retry-After`
    retry_after: int | None = None
    #: milliseconds before the answer
    delay_ms: Milliseconds = 0
    #: never answer, and do not accept the message
    hang: bool = False
    #: accept the message, then close the connection without an answer
    lost: bool = False
    #: only the first n messages; None = all
    times: Times | None = None


class RuleSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of both kinds: the body of `PUT /control/behaviour`."""

    mail: tuple[MailRule, ...] = ()
    sms: tuple[SmsRule, ...] = ()


RuleT = TypeVar("RuleT", MailRule, SmsRule)


class Behaviour(Generic[RuleT]):
    """The current rules of one kind. The first rule that matches applies."""

    def __init__(self) -> None:
        self._rules: list[tuple[RuleT, list[int]]] = []

    def set_rules(self, rules: Sequence[RuleT]) -> None:
        """Replace all rules. Without rules everything is accepted."""
        self._rules = [(rule, [0]) for rule in rules]

    def find(self, recipient: str) -> RuleT | None:
        """Return the rule for a message to a recipient, and count its use. None = the message is accepted."""
        for rule, use_count in self._rules:
            if rule.to is not None and rule.to.casefold() != recipient.casefold():
                continue
            if rule.times is not None and use_count[0] >= rule.times:
                continue
            use_count[0] += 1
            return rule
        return None


def parse_rules(body: bytes) -> RuleSet:
    """Return the rules of a request body. Raises ValidationFailed naming the invalid member."""
    try:
        return msgspec.json.decode(body, type=RuleSet)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValidationFailed.for_field("behaviour", str(error)) from None
