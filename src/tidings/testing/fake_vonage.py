"""A fake SMS provider with Vonage's API, which answers 200 also to a message that it refuses."""

from collections import deque
from types import TracebackType
from typing import Self

import msgspec

from tidings.testing.fake_providers import (
    AcceptMessage,
    Behaviour,
    HangConnection,
    LimitRate,
    LoseReply,
    RefuseMessage,
    SmsMessage,
)
from tidings.testing.http_server import Answer, Disconnect, Hang, HttpServer, ReceivedRequest, Reply

_JSON = {"Content-Type": "application/json"}
#: status of a message with wrong credentials
_INVALID_CREDENTIALS = 4


class FakeVonageProvider:
    """Use it as `async with FakeVonageProvider() as provider`. It accepts every message unless told otherwise."""

    def __init__(self, account: str = "fake-key", secret: str = "fake-secret") -> None:  # noqa: S107  # not a secret
        """`account` and `secret` are the credentials that it accepts."""
        self.account = account
        self.secret = secret
        #: the messages that it took, in the order of arrival; also those whose reply was lost
        self.messages: list[SmsMessage] = []
        self._behaviours: deque[Behaviour] = deque()
        self._by_recipient: dict[str, Behaviour] = {}
        self._server = HttpServer(self._answer)

    @property
    def url_with_credentials(self) -> str:
        """Base URL with the credentials, as `TIDINGS_SMS_URL` has it."""
        return f"vonage+http://{self.account}:{self.secret}@{self._server.authority}"

    def enqueue_behaviours(self, *behaviours: Behaviour) -> None:
        """Use each behaviour for one of the next requests. The code of a refusal is the status of the message."""
        self._behaviours.extend(behaviours)

    def set_behaviour(self, recipient: str, behaviour: Behaviour) -> None:
        """Use a behaviour for every message to a number in E.164."""
        self._by_recipient[recipient] = behaviour

    async def __aenter__(self) -> Self:
        await self._server.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.close()

    def _answer(self, request: ReceivedRequest) -> Answer:
        form = request.form
        if (request.method, request.path) != ("POST", "/sms/json"):
            return Reply(404)
        if (form.get("api_key"), form.get("api_secret")) != (self.account, self.secret):
            return _build_reply(str(_INVALID_CREDENTIALS))
        recipient = f"+{form['to']}"
        behaviour = self._by_recipient.get(recipient)
        if behaviour is None:
            behaviour = self._behaviours.popleft() if self._behaviours else AcceptMessage()
        match behaviour:
            case RefuseMessage(code=code):
                return _build_reply(str(code))
            case LimitRate(retry_after=seconds):
                return Reply(429, headers={} if seconds is None else {"Retry-After": str(seconds)})
            case HangConnection():
                return Hang()
            case AcceptMessage() | LoseReply():
                message = SmsMessage(f"V{len(self.messages):016x}", recipient, form["from"], form["text"], form)
                self.messages.append(message)
                return Disconnect() if isinstance(behaviour, LoseReply) else _build_reply("0", message.message_id)


def _build_reply(status: str, message_id: str | None = None) -> Reply:
    part = {"status": status, **({} if message_id is None else {"message-id": message_id})}
    return Reply(200, msgspec.json.encode({"message-count": "1", "messages": [part]}), _JSON)
