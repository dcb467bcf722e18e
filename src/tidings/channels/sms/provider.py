"""What an SMS provider is to the channel: one request per message, and the meaning of the response."""

from datetime import datetime
from enum import StrEnum
from typing import Protocol

import msgspec

from tidings.channels.http.exchange import HttpResponse


class Concern(StrEnum):
    """What a refusal is about, which decides what happens next."""

    #: the number opted out: suppressed until it opts in
    OPT_OUT = "opt_out"
    #: the number does not exist or cannot receive messages: never used again
    NUMBER = "number"
    #: this message or this route: final, the number is kept
    MESSAGE = "message"
    #: the provider or the account (credentials, quota, permission): another provider may send it
    PROVIDER = "provider"
    #: too many requests: this provider waits
    RATE = "rate"
    #: a temporary failure of the provider, which did not take the message
    TEMPORARY = "temporary"


class AcceptedMessage(msgspec.Struct, frozen=True):
    """The provider took the message."""

    message_id: str
    status: int
    #: messages that the provider made of it, each with receipts of its own; None = one
    parts: int | None = None


class RefusedMessage(msgspec.Struct, frozen=True):
    """The provider did not take the message."""

    concern: Concern
    why: str
    status: int


class UncertainResponse(msgspec.Struct, frozen=True):
    """The response does not say whether the provider took the message."""

    why: str
    status: int


Verdict = AcceptedMessage | RefusedMessage | UncertainResponse


class SmsRequest(msgspec.Struct, frozen=True):
    """One message for a provider."""

    #: our own id, which the provider's receipts return
    delivery_id: str
    #: E.164
    recipient: str
    text: str
    expires_at: datetime
    now: datetime


class SmsProvider(Protocol):
    """The API of a provider. Builds requests and reads responses; sends nothing itself."""

    #: `twilio` or `vonage`
    name: str
    #: absolute URL of the request
    url: str
    #: the number, name or messaging service from which messages are sent
    sender: str

    def build_request(self, request: SmsRequest) -> tuple[dict[str, str], bytes]:
        """Return headers and body."""
        ...

    def build_check(self) -> tuple[str, dict[str, str]]:
        """Return URL and headers of a request that succeeds with valid credentials, and sends nothing."""
        ...

    def read_response(self, response: HttpResponse) -> Verdict:
        """Return the meaning of a response."""
        ...
