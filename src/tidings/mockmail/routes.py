"""The HTTP routes of the mock mail service: pages, the JSON API, the route that takes SMS, and the control API."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote

from tidings.errors import ValidationFailed
from tidings.mockmail.behaviour import Behaviour, MailRule, SmsRule, parse_rules
from tidings.mockmail.mailbox import Mailbox, MailContent, Received, ReceivedMail, list_recipients
from tidings.mockmail.pages import PageContext, format_time, render_list, render_message, to_entry
from tidings.mockmail.sms_route import handle_sms
from tidings.mockpush.connection import Request
from tidings.mockpush.responses import MockResponse, build_json_response, build_response

_FOLDER = Path(__file__).parent
_STATIC = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}
_HTML = "text/html; charset=utf-8"
#: pages run their own script only, and a mail runs none: it may be anything that a test or a template produces
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_MAIL_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; "
    "img-src https: http: data:; font-src https: data:; frame-ancestors 'self'"
)
_COMMON = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
#: messages in the list of a page, and in one answer of the API
_LISTED = 200


class MailRoutes:
    """Answers requests. `sms_accept` stores an SMS: (sender, recipient, text) → its id."""

    def __init__(
        self,
        mailbox: Mailbox,
        mail_behaviour: Behaviour[MailRule],
        sms_behaviour: Behaviour[SmsRule],
        sms_accept: Callable[[str, str, str], str],
        *,
        smtp_url: str,
        sms_url: str,
    ) -> None:
        self._mailbox = mailbox
        self._mail_behaviour = mail_behaviour
        self._sms_behaviour = sms_behaviour
        self._sms_accept = sms_accept
        self._smtp_url = smtp_url
        self._sms_url = sms_url

    def respond(self, request: Request) -> MockResponse:
        """Return the response to a request."""
        target, _, query = request.target.decode("ascii", "replace").partition("?")
        parts = tuple(unquote(part) for part in target.strip("/").split("/"))
        values = {name: found[-1] for name, found in parse_qs(query).items()}
        try:
            match request.method.decode("ascii"), *parts:
                case "POST", "2010-04-01", "Accounts", _, "Messages.json":
                    return handle_sms(request.body, self._sms_behaviour, self._sms_accept)
                case "GET", "2010-04-01", "Accounts", account if account.endswith(".json"):
                    return build_json_response(200, {"sid": account.removesuffix(".json"), "status": "active"})
                case "GET", "healthz":
                    return build_json_response(200, {"status": "ok"})
                case "GET", name if f"/{name}" in _STATIC:
                    content = (_FOLDER / name).read_bytes()
                    return build_response(200, content, _COMMON, _STATIC[f"/{name}"])
                case "GET", "":
                    return _build_page(render_list(self._page_context(values)))
                case "GET", "messages", number, *rest:
                    return self._show(self._find(number), rest, values)
                case "GET", "api", "messages":
                    return self._list(values)
                case "GET", "api", "messages", number:
                    return build_json_response(200, describe(self._find(number)))
                case method, "control", name:
                    return self._control(method, name, request.body)
        except ValidationFailed as error:
            return build_json_response(400, {"reason": "invalid", "message": error.message})
        except KeyError:
            return build_json_response(404, {"reason": "unknown_message", "message": "there is no such message"})
        return build_json_response(404, {"reason": "unknown_route", "message": "try /, /api/messages, /healthz"})

    def _find(self, number: str) -> Received:
        """Return a kept message. Raises KeyError."""
        is_number = number.isascii() and number.isdigit() and len(number) < 16
        message = self._mailbox.get(int(number)) if is_number else None
        if message is None:
            raise KeyError(number)
        return message

    def _show(self, message: Received, rest: list[str], values: dict[str, str]) -> MockResponse:
        if not rest:
            return _build_page(render_message(self._page_context(values), message, values.get("view", "html")))
        if not isinstance(message, ReceivedMail):
            raise KeyError(message.number)
        content = message.content
        match rest:
            case ["html"] if content.html is not None:
                headers = f"{_COMMON}Content-Security-Policy: {_MAIL_POLICY}\r\n"
                return build_response(200, content.html.encode("utf-8", "replace"), headers, _HTML)
            case ["source"]:
                return _build_download(message.source, f"message-{message.number}.eml")
            case ["attachments", number] if number.isdigit() and 1 <= int(number[:9]) <= len(content.attachments):
                attachment = content.attachments[int(number) - 1]
                return _build_download(attachment.content, attachment.name)
        raise KeyError(message.number)

    def _list(self, values: dict[str, str]) -> MockResponse:
        limit, after = _read_number(values, "limit", 100), _read_number(values, "after", 0)
        found = self._mailbox.list_newest(to=values.get("to"), after=after, limit=min(limit, _LISTED))
        items = [to_entry(one) for one in found]
        return build_json_response(200, {"items": items, "received": self._mailbox.last_number})

    def _control(self, method: str, name: str, body: bytes) -> MockResponse:
        match method, name:
            case "PUT", "behaviour":
                rules = parse_rules(body)
                self._mail_behaviour.set_rules(rules.mail)
                self._sms_behaviour.set_rules(rules.sms)
            case "DELETE", "behaviour":
                self._mail_behaviour.set_rules(())
                self._sms_behaviour.set_rules(())
            case "POST", "reset":
                self._mailbox.clear()
            case _:
                message = f"there is no {method} /control/{name}; try PUT or DELETE behaviour, and POST reset"
                return build_json_response(404, {"reason": "unknown_route", "message": message})
        return build_response(204)

    def _page_context(self, values: dict[str, str]) -> PageContext:
        to = values.get("to", "").strip()
        return PageContext(
            messages=self._mailbox.list_newest(to=to or None, limit=_LISTED),
            to=to,
            received=self._mailbox.last_number,
            kept=len(self._mailbox),
            smtp_url=self._smtp_url,
            sms_url=self._sms_url,
        )


def describe(message: Received) -> dict[str, object]:
    """Return a message for the JSON API."""
    common = {"number": message.number, "receivedAt": format_time(message.received_at)}
    if not isinstance(message, ReceivedMail):
        fields = {"messageId": message.message_id, "from": message.sender, "to": [message.recipient]}
        return {"kind": "sms", **common, **fields, "text": message.text}
    content: MailContent = message.content
    return {
        "kind": "mail",
        **common,
        "mailFrom": message.mail_from,
        "to": list_recipients(message),
        "from": content.sender,
        "subject": content.subject,
        "headers": content.headers,
        "html": content.html,
        "text": content.text,
        "attachments": [
            {"name": one.name, "contentType": one.content_type, "bytes": len(one.content)}
            for one in content.attachments
        ],
    }


def _build_page(page: bytes) -> bytes:
    return build_response(200, page, f"{_COMMON}Content-Security-Policy: {_PAGE_POLICY}\r\n", _HTML)


def _build_download(content: bytes, name: str) -> bytes:
    # RFC 6266 §4.3: the name is percent-encoded, so that it cannot end the header
    headers = f"{_COMMON}Content-Disposition: attachment; filename*=UTF-8''{quote(name, safe='')}\r\n"
    return build_response(200, content, headers, "application/octet-stream")


def _read_number(values: dict[str, str], name: str, default: int) -> int:
    text = values.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValidationFailed.for_field(name, "must be a whole number, 0 or more")
    return int(text)
