"""Vonage's SMS API, also spoken by compatible providers. Pure."""

from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlencode

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
from tidings.channels.sms.segments import SmsEncoding, measure_text

DEFAULT_URL = "https://rest.nexmo.com"
#: milliseconds for which Vonage may hold a message
_MIN_TTL, _MAX_TTL = 20_000, 604_800_000

#: status of a message in a response → what it is about; all others are about the message
CONCERNS: Mapping[str, Concern] = {
    # throttled, too many binds
    "1": Concern.RATE,
    "10": Concern.RATE,
    "5": Concern.TEMPORARY,
    # barred, deactivated
    "7": Concern.NUMBER,
    "33": Concern.NUMBER,
    # credentials, quota, account, sender, callback
    "4": Concern.PROVIDER,
    "8": Concern.PROVIDER,
    "9": Concern.PROVIDER,
    "11": Concern.PROVIDER,
    "14": Concern.PROVIDER,
    "15": Concern.PROVIDER,
    "23": Concern.PROVIDER,
    "29": Concern.PROVIDER,
    "32": Concern.PROVIDER,
}
#: error code of a receipt → what it is about; all others are about the message
RECEIPT_CONCERNS: Mapping[str, Concern] = {
    # absent subscriber (permanent), illegal number
    "3": Concern.NUMBER,
    "9": Concern.NUMBER,
    # illegal sender address
    "39": Concern.PROVIDER,
}


class _Part(msgspec.Struct, frozen=True):
    status: str = ""
    message_id: str | None = msgspec.field(default=None, name="message-id")


class _Response(msgspec.Struct, frozen=True):
    messages: tuple[_Part, ...] = ()


class VonageProvider:
    """Implements `SmsProvider` for Vonage."""

    def __init__(
        self, *, account: str, secret: str, sender: str, base_url: str = DEFAULT_URL, callback_url: str | None = None
    ) -> None:
        """`account` and `secret` are the API key and secret. `callback_url` receives receipts."""
        self.name = "vonage"
        self.url = f"{base_url}/sms/json"
        self._credentials = {"api_key": account, "api_secret": secret}
        self.sender = sender
        self._callback_url = callback_url

    def build_request(self, request: SmsRequest) -> tuple[dict[str, str], bytes]:
        """Return headers and the form. Receipts return our id as `client-ref`."""
        is_unicode = measure_text(request.text).encoding is SmsEncoding.UCS2
        ttl = (request.expires_at - request.now) // timedelta(milliseconds=1)
        fields = {
            **self._credentials,
            "from": self.sender.removeprefix("+"),
            "to": request.recipient.removeprefix("+"),
            "text": request.text,
            "type": "unicode" if is_unicode else "text",
            "ttl": str(min(_MAX_TTL, max(_MIN_TTL, ttl))),
            "client-ref": request.delivery_id,
        }
        if self._callback_url is not None:
            fields["callback"] = self._callback_url
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        return headers, urlencode(fields).encode()

    def build_check(self) -> tuple[str, dict[str, str]]:
        """Return URL and headers of the account's balance."""
        url = f"{self.url.removesuffix('/sms/json')}/account/get-balance?{urlencode(self._credentials)}"
        return url, {"accept": "application/json"}

    def read_response(self, response: HttpResponse) -> Verdict:
        """Return the meaning of a response. The answer to a refusal is 200 too; each segment has a status."""
        status = response.status
        if status == 429:
            return RefusedMessage(Concern.RATE, "Vonage answered 429: too many requests", status)
        if status == 504:
            return UncertainResponse("a gateway of Vonage answered 504", status)
        if status >= 500:
            return RefusedMessage(Concern.TEMPORARY, f"Vonage answered {status}", status)
        if not 200 <= status < 300:
            concern = Concern.PROVIDER if status in (401, 402, 403, 404) or status < 400 else Concern.MESSAGE
            return RefusedMessage(concern, f"Vonage answered {status}", status)
        parts = _parse_body(response.body).messages
        refused = [part for part in parts if part.status != "0"]
        if not parts or not all(part.status for part in parts):
            return UncertainResponse(f"Vonage answered {status} without the status of a message", status)
        if not refused:
            message_id = next((part.message_id for part in parts if part.message_id), "")
            return AcceptedMessage(message_id, status, len(parts) if len(parts) > 1 else None)
        code = refused[0].status
        if len(refused) < len(parts):
            why = f"Vonage took {len(parts) - len(refused)} of {len(parts)} segments and refused one with status {code}"
            return RefusedMessage(Concern.MESSAGE, why, status)
        concern = CONCERNS.get(code, Concern.MESSAGE)
        return RefusedMessage(concern, f"Vonage refused the message with status {code}", status)


def _parse_body(body: bytes) -> _Response:
    try:
        return msgspec.json.decode(body, type=_Response)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Response()
