"""The route of the mock mail service that takes SMS, with the API of Twilio."""

from collections.abc import Callable
from urllib.parse import parse_qs

import msgspec

from tidings.mockmail.behaviour import Behaviour, SmsRule
from tidings.mockpush.responses import (
    MockResponse,
    build_json_response,
    build_response,
    delay_response,
    drop_connection,
    hang,
)

#: (sender, recipient, text) → id of the accepted message
Accept = Callable[[str, str, str], str]


def handle_sms(body: bytes, behaviour: Behaviour[SmsRule], accept: Accept) -> MockResponse:
    """Return the answer to `POST …/Messages.json`. Any account and secret are accepted."""
    form = {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
    recipient, text = form.get("To", ""), form.get("Body", "")
    if not recipient or not text:
        return _refuse(400, 21604 if not recipient else 21602, "To and Body are required")
    sender = form.get("From") or form.get("MessagingServiceSid", "")
    rule = behaviour.find(recipient)
    if rule is None:
        return _build_accepted(accept(sender, recipient, text), recipient)
    if rule.hang:
        return hang
    if rule.lost:
        accept(sender, recipient, text)
        return drop_connection
    if rule.status is not None:
        headers = "" if rule.retry_after is None else f"Retry-After: {rule.retry_after}\r\n"
        answer = _refuse(rule.status, rule.code, "refused by a rule of the mock service", headers)
    else:
        answer = _build_accepted(accept(sender, recipient, text), recipient)
    return delay_response(answer, rule.delay_ms) if rule.delay_ms else answer


def _build_accepted(message_id: str, recipient: str) -> bytes:
    return build_json_response(201, {"sid": message_id, "status": "queued", "to": recipient, "error_code": None})


def _refuse(status: int, code: int, text: str, headers: str = "") -> bytes:
    body = msgspec.json.encode({"code": code, "message": text, "status": status})
    return build_response(status, body, headers)
