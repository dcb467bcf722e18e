"""Fake providers: real local servers that answer like the API of a provider, as a test tells them to."""

import base64
import hmac
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import msgspec

from tidings.testing.http_server import Answer, Disconnect, Hang, HttpServer, ReceivedRequest, Reply

_JSON = {"Content-Type": "application/json"}


class AcceptMessage(msgspec.Struct, frozen=True):
    """Take the message and answer 201."""


class RefuseMessage(msgspec.Struct, frozen=True):
    """Answer with an error of the provider."""

    #: the provider's code, such as 21610: the recipient has opted out
    code: int
    status: int = 400
    text: str = "refused"


class LimitRate(msgspec.Struct, frozen=True):
    """Answer 429."""

    #: seconds of the header `Retry-After`; None = no header
    retry_after: int | None = None


class HangConnection(msgspec.Struct, frozen=True):
    """Read the request and neither take the message nor answer."""


class LoseReply(msgspec.Struct, frozen=True):
    """Take the message and close the connection without an answer."""


Behaviour = AcceptMessage | RefuseMessage | LimitRate | HangConnection | LoseReply


@dataclass(frozen=True, slots=True)
class SmsMessage:
    """A message that the fake provider took."""

    message_id: str
    recipient: str
    sender: str
    text: str
    #: every field of the request
    form: Mapping[str, str] = field(default_factory=dict)


class FakeSmsProvider:
    """An SMS provider with Twilio's API. Use it as `async with FakeSmsProvider() as provider`.

    It accepts every message unless `enqueue_behaviours` or `set_behaviour` say otherwise.
    """

    def __init__(self, account: str = "AC" + "0" * 32, secret: str = "fake-token") -> None:  # noqa: S107  # not a secret
        """`account` and `secret` are the credentials that it accepts."""
        self.account = account
        self.secret = secret
        #: the messages that it took, in the order of arrival; also those whose reply was lost
        self.messages: list[SmsMessage] = []
        self._behaviours: deque[Behaviour] = deque()
        self._by_recipient: dict[str, Behaviour] = {}
        self._server = HttpServer(self._answer)

    @property
    def url(self) -> str:
        """Base URL without credentials."""
        return self._server.url

    @property
    def url_with_credentials(self) -> str:
        """Base URL with the credentials, as `TIDINGS_SMS_URL` has it."""
        return f"http://{self.account}:{self.secret}@{self._server.authority}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request that it received."""
        return self._server.requests

    def enqueue_behaviours(self, *behaviours: Behaviour) -> None:
        """Use each behaviour for one of the next requests."""
        self._behaviours.extend(behaviours)

    def set_behaviour(self, recipient: str, behaviour: Behaviour) -> None:
        """Use a behaviour for every message to a number."""
        self._by_recipient[recipient] = behaviour

    def sign(self, url: str, form: Mapping[str, str]) -> str:
        """Return the header `X-Twilio-Signature` of a webhook with these fields, once per name."""
        signed = url + "".join(name + form[name] for name in sorted(form))
        return base64.b64encode(hmac.digest(self.secret.encode(), signed.encode(), "sha1")).decode()

    def build_receipt(self, message: SmsMessage, status: str, error_code: int | None = None) -> bytes:
        """Return the form body of a status callback for a message that it took."""
        fields = {
            "AccountSid": self.account,
            "MessageSid": message.message_id,
            "MessageStatus": status,
            "To": message.recipient,
            "From": message.sender,
        }
        if error_code is not None:
            fields["ErrorCode"] = str(error_code)
        return urlencode(fields).encode()

    async def open(self) -> None:
        """Listen on a free port."""
        await self._server.open()

    async def close(self) -> None:
        """Stop the server."""
        await self._server.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _answer(self, request: ReceivedRequest) -> Answer:
        if request.headers.get("authorization") != _basic_authorization(self.account, self.secret):
            return _build_error(401, 20003, "Authenticate")
        if (request.method, request.path) == ("GET", f"/2010-04-01/Accounts/{self.account}.json"):
            return Reply(200, msgspec.json.encode({"sid": self.account, "status": "active"}), _JSON)
        if (request.method, request.path) != ("POST", f"/2010-04-01/Accounts/{self.account}/Messages.json"):
            return _build_error(404, 20404, "The requested resource was not found")
        form = request.form
        behaviour = self._by_recipient.get(form.get("To", ""))
        if behaviour is None:
            behaviour = self._behaviours.popleft() if self._behaviours else AcceptMessage()
        match behaviour:
            case RefuseMessage(code=code, status=status, text=text):
                return _build_error(status, code, text)
            case LimitRate(retry_after=seconds):
                headers = {} if seconds is None else {"Retry-After": str(seconds)}
                return _build_error(429, 20429, "Too Many Requests", headers)
            case HangConnection():
                return Hang()
            case AcceptMessage() | LoseReply():
                message = self._take(form)
                return Disconnect() if isinstance(behaviour, LoseReply) else _build_acceptance(message)

    def _take(self, form: Mapping[str, str]) -> SmsMessage:
        sender = form.get("From") or form.get("MessagingServiceSid", "")
        message = SmsMessage(f"SM{len(self.messages):032x}", form["To"], sender, form["Body"], form)
        self.messages.append(message)
        return message


def _basic_authorization(account: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{account}:{secret}".encode()).decode()


def _build_acceptance(message: SmsMessage) -> Reply:
    body = {
        "sid": message.message_id,
        "status": "queued",
        "to": message.recipient,
        "from": message.sender,
        "body": message.text,
        "error_code": None,
        "error_message": None,
    }
    return Reply(201, msgspec.json.encode(body), _JSON)


def _build_error(status: int, code: int, text: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(
        status, msgspec.json.encode({"code": code, "message": text, "status": status}), {**_JSON, **(headers or {})}
    )
