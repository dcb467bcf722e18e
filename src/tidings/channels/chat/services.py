"""The four services: how a message is written for each, and what each answer means. Pure.

A message counts as sent only if the service confirmed it: Slack with `ok`, Discord with the id of the message
(`?wait=true`), Telegram with `"ok": true`. Teams confirms that the workflow was started, not that it posted.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from tidings.channels.chat.destination import Destination, Service
from tidings.channels.chat.payload import ChatPayload
from tidings.channels.chat.text import escape_discord, escape_mentions, escape_slack, measure_text, truncate_text
from tidings.channels.http.exchange import HttpResponse
from tidings.channels.http.retry_policy import MAX_RETRY_AFTER, parse_retry_after
from tidings.model.outcome import Accepted, InvalidTarget, PermanentFailure, Uncertain

#: least time between two messages to one destination
INTERVALS: Mapping[Service, timedelta] = {
    Service.SLACK: timedelta(seconds=1),
    Service.TEAMS: timedelta(seconds=0.5),
    Service.DISCORD: timedelta(seconds=0.5),
    Service.TELEGRAM: timedelta(seconds=1),
}
#: the wait after a 429 without one
DEFAULT_WAIT = timedelta(seconds=30)
#: Slack's limits of a header and of a section, Discord's and Telegram's of a message, a cautious one for Teams
_SLACK_HEADER, _SLACK_SECTION, _DISCORD, _TELEGRAM, _TEAMS = 150, 3_000, 2_000, 4_096, 10_000
#: answers of Slack's API that are about the destination or its token
_SLACK_ENDED = frozenset(
    {
        *("channel_not_found", "is_archived", "not_in_channel", "user_not_found", "restricted_action"),
        *("account_inactive", "invalid_auth", "not_authed", "token_revoked", "token_expired", "missing_scope"),
        *("no_service", "no_active_hooks", "invalid_token", "channel_is_archived", "action_prohibited"),
    }
)
_SLACK_BUSY = frozenset({"internal_error", "fatal_error", "service_unavailable", "request_timeout", "rollup_error"})


class RateLimited(msgspec.Struct, frozen=True):
    """The service asks for a wait."""

    wait: timedelta
    #: it concerns every destination of the service
    is_global: bool = False


class Failed(msgspec.Struct, frozen=True):
    """A failure that may pass."""

    why: str
    status: int | None = None


Answer = Accepted | PermanentFailure | InvalidTarget | Uncertain | RateLimited | Failed


def build_request(destination: Destination, payload: ChatPayload) -> tuple[str, Mapping[str, str], bytes]:
    """Return path (for Teams: URL), headers and body of the request for a message."""
    headers = {"content-type": "application/json; charset=utf-8"}
    path, body = destination.path, _BODIES[destination.service](destination, payload)
    if destination.token is not None:
        headers["authorization"] = f"Bearer {destination.token}"
    if destination.service is Service.DISCORD:
        path += "?wait=true" + (f"&thread_id={destination.thread}" if destination.thread else "")
    return path, headers, msgspec.json.encode(body)


def _build_slack(destination: Destination, payload: ChatPayload) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    if payload.title:
        title = truncate_text(payload.title, _SLACK_HEADER, escape_slack)
        blocks.append({"type": "header", "text": {"type": "plain_text", "text": title, "emoji": False}})
    if payload.body:
        body = truncate_text(payload.body, _SLACK_SECTION, escape_slack)
        blocks.append({"type": "section", "text": {"type": "plain_text", "text": body, "emoji": False}})
    url = payload.url.replace("&", "&amp;").replace("<", "%3C").replace(">", "%3E").replace("|", "%7C")
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": f"<{url}>"}]})
    # shown in the notification of the device
    summary = truncate_text(payload.title or payload.body, _SLACK_SECTION, escape_slack)
    message: dict[str, Any] = {"text": summary, "mrkdwn": False, "blocks": blocks, "unfurl_links": False}
    if destination.channel is not None:
        message |= {"channel": destination.channel, "parse": "none", "link_names": False}
    return message


def _build_discord(_destination: Destination, payload: ChatPayload) -> dict[str, Any]:
    lines = [f"**{truncate_text(payload.title, _DISCORD // 4, escape_discord)}**"] if payload.title else []
    room = _DISCORD - sum(measure_text(line) + 1 for line in lines) - measure_text(payload.url) - 1
    if payload.body and room > 1:
        lines.append(truncate_text(payload.body, room, escape_discord))
    if measure_text(payload.url) < _DISCORD // 2:
        lines.append(payload.url)
    # flag 4: without a preview of the link
    return {"content": "\n".join(lines), "allowed_mentions": {"parse": []}, "flags": 4}


def _build_telegram(destination: Destination, payload: ChatPayload) -> dict[str, Any]:
    title = truncate_text(payload.title, _TELEGRAM // 4, escape_mentions)
    room = _TELEGRAM - measure_text(title) - measure_text(payload.url) - 2
    body = truncate_text(payload.body, max(room, 1), escape_mentions)
    text = "\n".join(part for part in (title, body, payload.url) if part)
    # without a parse mode nothing in the text is markup
    message: dict[str, Any] = {
        "chat_id": destination.channel,
        "text": text,
        "link_preview_options": {"is_disabled": True},
    }
    if title:
        message["entities"] = [{"type": "bold", "offset": 0, "length": measure_text(title)}]
    if destination.thread is not None:
        message["message_thread_id"] = int(destination.thread)
    return message


def _build_teams(_destination: Destination, payload: ChatPayload) -> dict[str, Any]:
    # a TextRun shows Markdown as it is, a TextBlock would not
    title = truncate_text(payload.title, _TEAMS // 4, escape_mentions)
    blocks = [_build_rich_text({"text": title, "weight": "Bolder", "size": "Medium"})] if title else []
    if payload.body:
        blocks.append(_build_rich_text({"text": truncate_text(payload.body, _TEAMS, escape_mentions)}))
    link = {"text": payload.url, "selectAction": {"type": "Action.OpenUrl", "url": payload.url}}
    blocks.append(_build_rich_text(link))
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
    }
    content = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [content]}


def _build_rich_text(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", **run}]}


_BODIES = {
    Service.SLACK: _build_slack,
    Service.DISCORD: _build_discord,
    Service.TELEGRAM: _build_telegram,
    Service.TEAMS: _build_teams,
}


def read_response(service: Service, response: HttpResponse, now: datetime) -> Answer:
    """Return what the answer of a service means. 429, 5xx and redirects mean the same for each."""
    status = response.status
    if status == 429:
        return _read_rate_limit(response, now)
    if status >= 500:
        return Failed(f"{service} answered {status}", status)
    if 300 <= status < 400:
        return Failed(f"{service} answered {status}, a redirect, which is not followed", status)
    return _READERS[service](response)


def _read_rate_limit(response: HttpResponse, now: datetime) -> RateLimited:
    document = _read_json(response)
    seconds = document.get("retry_after")
    if seconds is None and isinstance(parameters := document.get("parameters"), dict):
        seconds = parameters.get("retry_after")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0:
        wait = timedelta(seconds=min(float(seconds), MAX_RETRY_AFTER.total_seconds()))
    else:
        wait = parse_retry_after(response.headers.get("retry-after"), now) or DEFAULT_WAIT
    return RateLimited(wait, is_global=document.get("global") is True)


def _read_slack(response: HttpResponse) -> Answer:
    status = response.status
    if not response.body.lstrip().startswith(b"{"):
        # an incoming webhook
        text = response.body[:100].decode("utf-8", "replace").strip()
        if status == 200 and text == "ok":
            return Accepted("Slack confirmed the message", status, provider="slack")
        return _read_slack_error(text, status)
    document = _read_json(response)
    if status == 200 and document.get("ok") is True:
        message_id = document.get("ts")
        return Accepted(
            "Slack confirmed the message", status, "slack", message_id if isinstance(message_id, str) else None
        )
    return _read_slack_error(str(document.get("error", "")), status)


def _read_slack_error(code: str, status: int) -> Answer:
    why = f"Slack answered {status}: {code or 'nothing'}"
    if code in _SLACK_ENDED or status in (404, 410):
        return InvalidTarget(why, status, action="disable")
    if code == "ratelimited":
        return RateLimited(DEFAULT_WAIT)
    if code in _SLACK_BUSY:
        return Failed(why, status)
    if status == 200 and not code:
        return Uncertain("Slack answered 200 without a confirmation", status, "slack")
    return PermanentFailure(why, status, is_target_suspect=True)


def _read_discord(response: HttpResponse) -> Answer:
    status, document = response.status, _read_json(response)
    if 200 <= status < 300:
        message_id = document.get("id")
        if isinstance(message_id, str):
            return Accepted("Discord confirmed the message", status, "discord", message_id)
        return Uncertain(f"Discord answered {status} without the id of a message", status, "discord")
    why = f"Discord answered {status}: {document.get('message', 'nothing')}"
    # the webhook or its channel does not exist any more, or the token is wrong
    if status in (401, 403, 404):
        return InvalidTarget(why, status, action="disable")
    return PermanentFailure(why, status, is_target_suspect=True)


def _read_telegram(response: HttpResponse) -> Answer:
    status, document = response.status, _read_json(response)
    result = document.get("result")
    if status == 200 and document.get("ok") is True and isinstance(result, dict) and "message_id" in result:
        return Accepted("Telegram confirmed the message", status, "telegram", str(result["message_id"]))
    if 200 <= status < 300:
        return Uncertain(f"Telegram answered {status} without the id of a message", status, "telegram")
    description = str(document.get("description", "nothing"))
    why = f"Telegram answered {status}: {description}"
    # the token is wrong, the bot was blocked or removed, or the chat does not exist (any more)
    if status in (401, 403, 404) or "chat not found" in description or "migrate_to_chat_id" in str(document):
        return InvalidTarget(why, status, action="disable")
    return PermanentFailure(why, status, is_target_suspect=True)


def _read_teams(response: HttpResponse) -> Answer:
    status = response.status
    # Teams has answered 200 to messages that it did not post, with the failure in the body
    if b"delivery failed" in response.body:
        return Failed(f"Teams answered {status}, and that the message was not posted", status)
    if status in (200, 202):
        return Accepted("the workflow of Teams took the message", status, provider="teams")
    why = f"Teams answered {status}"
    if status in (401, 403, 404, 410):
        return InvalidTarget(f"{why}: the workflow does not exist, or its signature is wrong", status, action="disable")
    if 200 <= status < 300:
        return Uncertain(f"{why}, which confirms nothing", status, "teams")
    return PermanentFailure(why, status, is_target_suspect=True)


_READERS = {
    Service.SLACK: _read_slack,
    Service.DISCORD: _read_discord,
    Service.TELEGRAM: _read_telegram,
    Service.TEAMS: _read_teams,
}


def _read_json(response: HttpResponse) -> Mapping[str, Any]:
    try:
        document = msgspec.json.decode(response.body)
    except msgspec.DecodeError:
        return {}
    return document if isinstance(document, dict) else {}
