"""A fake of the chat services: one real server that answers like Slack, Discord, Telegram and a workflow of Teams."""

import re
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import msgspec

from tidings.testing.fake_providers import AcceptMessage, HangConnection, LimitRate, LoseReply
from tidings.testing.http_server import Answer, Disconnect, Hang, HttpServer, ReceivedRequest, Reply

_JSON = {"Content-Type": "application/json"}
SLACK_TOKEN = "xoxb-1234567890-fake"  # noqa: S105  # accepted by the fake only
_SLACK_MENTION = re.compile(r"<(![a-z^]+|@[UW][A-Z0-9]+|#C[A-Z0-9]+)[^>]*>")
_NAME_MENTION = re.compile(r"(?<!\w)@\w+")
_DISCORD_MENTION = re.compile(r"(?<!\\)@(everyone|here)\b|(?<!\\)<@[!&]?[0-9]+>")

#: what a service does with a request
Behaviour = AcceptMessage | LimitRate | HangConnection | LoseReply | Reply


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A message that a service took."""

    service: str
    #: webhook, channel or chat
    destination: str
    #: what a reader sees, without markup of the service
    text: str
    #: people and channels that the service would notify
    mentions: tuple[str, ...]
    message_id: str
    payload: dict[str, Any]


class FakeChats:
    """The four services on one port. Use it as `async with FakeChats() as chats`.

    It accepts every message unless `enqueue` or `set_behaviour` say otherwise.
    """

    def __init__(self, server: HttpServer | None = None) -> None:
        """`server` is one with TLS, which workflows of Teams need; its handler is replaced."""
        #: the messages that were taken, also those whose reply was lost
        self.messages: list[ChatMessage] = []
        self._behaviours: deque[Behaviour] = deque()
        self._default: Behaviour = AcceptMessage()
        self.server = server or HttpServer(self.respond)

    @property
    def url(self) -> str:
        """Base URL of every service."""
        return self.server.url

    def enqueue(self, *behaviours: Behaviour) -> None:
        """Use each behaviour for one of the next requests. A `Reply` is sent as it is, and nothing is taken."""
        self._behaviours.extend(behaviours)

    def set_behaviour(self, behaviour: Behaviour) -> None:
        """Use a behaviour for every request without one of its own."""
        self._default = behaviour

    async def __aenter__(self) -> Self:
        await self.server.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.server.close()

    def respond(self, request: ReceivedRequest) -> Answer:
        """Return the answer to a request. The handler of the server."""
        behaviour = self._behaviours.popleft() if self._behaviours else self._default
        if isinstance(behaviour, Reply):
            return behaviour
        if isinstance(behaviour, HangConnection):
            return Hang()
        handle = next((handle for start, handle in self._routes() if request.path.startswith(start)), None)
        if handle is None:
            return Reply(404, b'{"message": "404: Not Found", "code": 0}', _JSON)
        if isinstance(behaviour, LimitRate):
            return _limit(request.path, behaviour.retry_after)
        reply = handle(request, msgspec.json.decode(request.body, type=dict[str, Any]))
        return Disconnect() if isinstance(behaviour, LoseReply) else reply

    def _routes(self) -> list[tuple[str, Any]]:
        return [
            ("/services/", self._answer_slack_webhook),
            ("/api/chat.postMessage", self._answer_slack_bot),
            ("/api/webhooks/", self._answer_discord),
            ("/bot", self._answer_telegram),
            ("/workflows/", self._answer_teams),
            ("/powerautomate/", self._answer_teams),
        ]

    def _take(self, service: str, destination: str, text: str, mentions: list[str], payload: dict[str, Any]) -> str:
        message_id = str(1000 + len(self.messages))
        self.messages.append(ChatMessage(service, destination, text, tuple(mentions), message_id, payload))
        return message_id

    def _take_slack(self, destination: str, payload: dict[str, Any]) -> str:
        texts = [payload["text"]]
        for block in payload.get("blocks", ()):
            texts += [one["text"] for one in [block.get("text"), *block.get("elements", ())] if one]
        mentions = [match.group() for text in texts for match in _SLACK_MENTION.finditer(text)]
        shown = "\n".join(texts).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        return self._take("slack", destination, shown, mentions, payload)

    def _answer_slack_webhook(self, request: ReceivedRequest, payload: dict[str, Any]) -> Reply:
        if not payload.get("text"):
            return Reply(400, b"no_text")
        self._take_slack(request.path, payload)
        return Reply(200, b"ok", {"Content-Type": "text/html"})

    def _answer_slack_bot(self, request: ReceivedRequest, payload: dict[str, Any]) -> Reply:
        if request.headers.get("authorization") != f"Bearer {SLACK_TOKEN}":
            return _json({"ok": False, "error": "invalid_auth"})
        if not str(payload.get("channel", "")).strip("#"):
            return _json({"ok": False, "error": "channel_not_found"})
        message_id = self._take_slack(payload["channel"], payload)
        return _json({"ok": True, "channel": "C1", "ts": message_id})

    def _answer_discord(self, request: ReceivedRequest, payload: dict[str, Any]) -> Reply:
        content = payload.get("content", "")
        if not content or len(content) > 2000:
            return _json({"message": "Invalid Form Body", "code": 50035}, 400)
        query = parse_qs(urlsplit(request.target).query)
        mentions = [match.group() for match in _DISCORD_MENTION.finditer(content)]
        if payload.get("allowed_mentions", {}).get("parse") == []:
            mentions = []
        destination = request.path + "".join(f"#{thread}" for thread in query.get("thread_id", ()))
        message_id = self._take("discord", destination, re.sub(r"\\(.)", r"\1", content), mentions, payload)
        # without `wait` Discord answers before it has stored the message
        return _json({"id": message_id, "content": content}) if query.get("wait") == ["true"] else Reply(204)

    def _answer_telegram(self, _request: ReceivedRequest, payload: dict[str, Any]) -> Reply:
        text = payload.get("text", "")
        if not text:
            return _json({"ok": False, "error_code": 400, "description": "Bad Request: message text is empty"}, 400)
        mentions = [match.group() for match in _NAME_MENTION.finditer(text)]
        message_id = self._take("telegram", str(payload["chat_id"]), text, mentions, payload)
        return _json({"ok": True, "result": {"message_id": int(message_id), "text": text}})

    def _answer_teams(self, request: ReceivedRequest, payload: dict[str, Any]) -> Reply:
        [attachment] = payload["attachments"]
        card = attachment["content"]
        assert card["type"] == "AdaptiveCard", "the workflow rejects everything else"
        texts = [run["text"] for block in card["body"] for run in block["inlines"]]
        mentions = [entity["text"] for entity in card.get("msteams", {}).get("entities", ())]
        self._take("teams", request.path, "\n".join(texts), mentions, payload)
        return Reply(202)


def _json(document: dict[str, Any], status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(document), _JSON)


def _limit(path: str, seconds: int | None) -> Reply:
    headers = {**_JSON, **({} if seconds is None else {"Retry-After": str(seconds)})}
    if path.startswith("/bot"):
        parameters = {} if seconds is None else {"retry_after": seconds}
        body: dict[str, Any] = {"ok": False, "error_code": 429, "parameters": parameters}
        return Reply(429, msgspec.json.encode(body), _JSON)
    if path.startswith("/api/webhooks/"):
        body = {"message": "You are being rate limited.", "global": False}
        return Reply(429, msgspec.json.encode(body if seconds is None else {**body, "retry_after": seconds}), headers)
    return Reply(429, b'{"ok":false,"error":"ratelimited"}', headers)
