"""A fake receiver of webhooks, which verifies them as Standard Webhooks 1.0 asks of a receiver."""

import base64
import hmac
from collections import deque
from types import TracebackType
from typing import Any, Self

import msgspec

from tidings.testing.fake_providers import AcceptMessage, Behaviour, HangConnection, LimitRate, LoseReply, RefuseMessage
from tidings.testing.http_server import Answer, Disconnect, Hang, HttpServer, ReceivedRequest, Reply

_SECRET_PREFIX = "whsec_"  # noqa: S105  # the prefix of every secret


class FakeWebhookReceiver:
    """Use it as `async with FakeWebhookReceiver() as receiver`. It answers 204 unless told otherwise."""

    def __init__(self) -> None:
        #: the requests that it took, also those whose reply was lost
        self.requests: list[ReceivedRequest] = []
        self._behaviours: deque[Behaviour] = deque()
        self._default: Behaviour = AcceptMessage()
        self._server = HttpServer(self._answer)

    @property
    def url(self) -> str:
        """The endpoint's URL."""
        return f"{self._server.url}/webhook"

    @property
    def authority(self) -> str:
        """`host:port`, for `TIDINGS_WEBHOOK__TRUSTED_HOSTS`."""
        return self._server.authority

    @property
    def events(self) -> list[dict[str, Any]]:
        """The bodies of the requests that it took."""
        return [msgspec.json.decode(request.body, type=dict[str, Any]) for request in self.requests]

    def enqueue_behaviours(self, *behaviours: Behaviour) -> None:
        """Use each behaviour for one of the next requests."""
        self._behaviours.extend(behaviours)

    def set_behaviour(self, behaviour: Behaviour) -> None:
        """Use a behaviour for every request without one of its own."""
        self._default = behaviour

    def assert_signed(self, secret: str) -> None:
        """Raise AssertionError unless every request that it took is signed with a secret `whsec_…`."""
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
        for request in self.requests:
            headers = request.headers
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
            expected = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
            signatures = headers["webhook-signature"].split(" ")
            if expected not in signatures:
                raise AssertionError(f"{headers['webhook-id']} is not signed with this secret")

    async def __aenter__(self) -> Self:
        await self._server.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.close()

    def _answer(self, request: ReceivedRequest) -> Answer:
        behaviour = self._behaviours.popleft() if self._behaviours else self._default
        match behaviour:
            case RefuseMessage(status=status, text=text):
                return Reply(status, text.encode())
            case LimitRate(retry_after=seconds):
                return Reply(429, headers={} if seconds is None else {"Retry-After": str(seconds)})
            case HangConnection():
                return Hang()
            case AcceptMessage() | LoseReply():
                self.requests.append(request)
                return Disconnect() if isinstance(behaviour, LoseReply) else Reply(204)
