"""Twilio's Messages API, also spoken by compatible providers. Pure."""

import base64
from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from tidings.channels.http.exchange import HttpResponse
from tidings.channels.sms.provider import (
    AcceptedMessage,
    Concern,
    RefusedMessage,
    SmsRequest,
    UncertainResponse,
    Verdict,
)

DEFAULT_URL = "https://api.twilio.com"
#: seconds for which Twilio may hold a message
_MIN_VALIDITY, _MAX_VALIDITY = 1, 36_000

#: error code of a response or a receipt → what it is about; all others are about the message
CONCERNS: Mapping[int, Concern] = {
    21610: Concern.OPT_OUT,
    # not a number, not reachable, not mobile, unknown, landline
    21211: Concern.NUMBER,
    21214: Concern.NUMBER,
    21217: Concern.NUMBER,
    21265: Concern.NUMBER,
    21614: Concern.NUMBER,
    21635: Concern.NUMBER,
    30005: Concern.NUMBER,
    30006: Concern.NUMBER,
    # credentials, account, permission, sender, messaging service, registration, daily limit
    20003: Concern.PROVIDER,
    20005: Concern.PROVIDER,
    20403: Concern.PROVIDER,
    20404: Concern.PROVIDER,
    21212: Concern.PROVIDER,
    21408: Concern.PROVIDER,
    21603: Concern.PROVIDER,
    21606: Concern.PROVIDER,
    21608: Concern.PROVIDER,
    21659: Concern.PROVIDER,
    21660: Concern.PROVIDER,
    21703: Concern.PROVIDER,
    21705: Concern.PROVIDER,
    30002: Concern.PROVIDER,
    30034: Concern.PROVIDER,
    63038: Concern.PROVIDER,
    # too many requests, a full queue, too many messages to one number
    20429: Concern.RATE,
    21611: Concern.RATE,
    30001: Concern.RATE,
    14107: Concern.RATE,
}


class _MessageResource(msgspec.Struct, frozen=True):
    """The parts of a response that are used: a message or an error."""

    sid: str | None = None
    status: str | int | None = None
    error_code: int | None = None
    code: int | None = None


class TwilioProvider:
    """Implements `SmsProvider` for Twilio."""

    def __init__(
        self,
        *,
        account: str,
        secret: str,
        sender: str | None,
        messaging_service: str | None = None,
        base_url: str = DEFAULT_URL,
        callback_url: str | None = None,
    ) -> None:
        """`sender` is a number or name, used if there is no messaging service. `callback_url` receives receipts."""
        self.name = "twilio"
        self.url = f"{base_url}/2010-04-01/Accounts/{quote(account, safe='')}/Messages.json"
        self._headers = {
            "authorization": "Basic " + base64.b64encode(f"{account}:{secret}".encode()).decode(),
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
        }
        self.sender = messaging_service or sender or ""
        self._number = sender
        self._messaging_service = messaging_service
        self._callback_url = callback_url

    def build_request(self, request: SmsRequest) -> tuple[dict[str, str], bytes]:
        """Return headers and the form. Receipts return our id in the query of the callback URL."""
        fields = {"To": request.recipient, "Body": request.text}
        if self._messaging_service is not None:
            fields["MessagingServiceSid"] = self._messaging_service
        else:
            fields["From"] = self._number or ""
        validity = (request.expires_at - request.now) // timedelta(seconds=1)
        fields["ValidityPeriod"] = str(min(_MAX_VALIDITY, max(_MIN_VALIDITY, validity)))
        if self._callback_url is not None:
            separator = "&" if urlsplit(self._callback_url).query else "?"
            fields["StatusCallback"] = f"{self._callback_url}{separator}deliveryId={quote(request.delivery_id)}"
        return self._headers, urlencode(fields).encode()

    def build_check(self) -> tuple[str, dict[str, str]]:
        """Return URL and headers of the account's resource."""
        headers = {name: self._headers[name] for name in ("authorization", "accept")}
        return self.url.removesuffix("/Messages.json") + ".json", headers

    def read_response(self, response: HttpResponse) -> Verdict:
        """Return the meaning of a response."""
        status = response.status
        body = _parse_body(response.body)
        if 200 <= status < 300:
            if body.error_code or body.status in ("failed", "undelivered"):
                return _refuse(body.error_code, status)
            if body.sid:
                return AcceptedMessage(body.sid, status)
            return UncertainResponse(f"Twilio answered {status} without the id of a message", status)
        if status == 429:
            return RefusedMessage(Concern.RATE, "Twilio answered 429: too many requests", status)
        if status == 504:
            return UncertainResponse("a gateway of Twilio answered 504", status)
        if status >= 500:
            return RefusedMessage(Concern.TEMPORARY, f"Twilio answered {status}", status)
        if body.code is None:
            concern = Concern.PROVIDER if status in (401, 402, 403, 404) or status < 400 else Concern.MESSAGE
            return RefusedMessage(concern, f"Twilio answered {status}", status)
        return _refuse(body.code, status)


def _refuse(code: int | None, status: int) -> RefusedMessage:
    concern = CONCERNS.get(code or 0)
    if concern is None:
        concern = Concern.PROVIDER if status in (401, 403) else Concern.MESSAGE
    # the provider's text is left out: it often contains the number
    return RefusedMessage(
        concern, f"Twilio refused the message with the error {code}" if code else "Twilio failed", status
    )


def _parse_body(body: bytes) -> _MessageResource:
    try:
        return msgspec.json.decode(body, type=_MessageResource)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _MessageResource()
