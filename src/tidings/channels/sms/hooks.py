"""Verifies the calls of SMS providers: delivery reports, and messages of recipients."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from tidings.channels.plugin import FeedbackPolicy, HookReading, HookRequest
from tidings.channels.sms.keywords import SmsIntent
from tidings.channels.sms.receipts import (
    IncomingSms,
    parse_twilio_incoming,
    parse_twilio_receipt,
    parse_vonage_incoming,
    parse_vonage_receipt,
)
from tidings.channels.sms.settings import (
    ProviderUrl,
    SmsSettings,
    list_provider_urls,
)
from tidings.channels.sms.webhook_verification import (
    verify_twilio,
    verify_vonage_signature,
    verify_vonage_token,
)
from tidings.errors import NotFound, Unauthenticated
from tidings.model.receipt import ProviderEvent
from tidings.model.suppression import SoftBouncePolicy

#: Twilio's answer that sends nothing
_NO_ANSWER = b"<Response/>"
_XML = "application/xml"


class SmsHooks:
    """Implements `tidings.channels.plugin.ChannelHooks`."""

    def __init__(self, settings: SmsSettings) -> None:
        self._settings = settings
        #: the providers whose calls can be verified
        self.providers = list_hooks(settings)
        #: how long a provider may be silent
        self.feedback = FeedbackPolicy(SoftBouncePolicy(), timedelta(hours=settings.max_silence_hours))

    async def read(self, request: HookRequest) -> HookReading:
        """Return the events of a call. Raises Unauthenticated, ValidationFailed, NotFound for an unknown provider."""
        # the first call loads the metadata of phone numbers
        return await asyncio.to_thread(read_hook, request, self._settings)


def list_hooks(settings: SmsSettings) -> Sequence[str]:
    """Return the providers whose calls can be verified. Raises ConfigError."""
    if settings.callback_url is None:
        return []
    providers = {url.provider for url in list_provider_urls(settings)}
    if settings.signature_secret is None:
        providers.discard("vonage")
    return sorted(providers)


def list_senders(urls: Sequence[ProviderUrl]) -> Sequence[str]:
    """Return the numbers, names and messaging services from which messages are sent."""
    return [sender for url in urls if (sender := url.messaging_service or url.sender) is not None]


def read_hook(request: HookRequest, settings: SmsSettings) -> HookReading:
    """Return the events of a call. Raises Unauthenticated, ValidationFailed, NotFound for an unknown provider."""
    if request.provider not in list_hooks(settings):
        raise NotFound("There is no such hook.", code="unknown_hook")
    urls = list_provider_urls(settings)
    senders = list_senders(urls)
    if request.provider == "twilio":
        fields = _verify_twilio(request, urls, settings)
        # only a report has it; a message of a recipient has the status `received`
        if "MessageStatus" in fields:
            query = dict(parse_qsl(request.query))
            return _report(parse_twilio_receipt(fields, query, request.now))
        return _answer(parse_twilio_incoming(fields), senders, settings, request.now)
    fields = _verify_vonage(request, settings)
    if "status" in fields:
        return _report(parse_vonage_receipt(fields, request.now))
    return HookReading([parse_vonage_incoming(fields).to_event(senders, request.now)])


def _report(event: ProviderEvent | None) -> HookReading:
    return HookReading([] if event is None else [event])


def _answer(incoming: IncomingSms, senders: Sequence[str], settings: SmsSettings, now: datetime) -> HookReading:
    """Return the event of a message to a Twilio number, and the answer to HELP."""
    event = incoming.to_event(senders, now)
    if incoming.intent is not SmsIntent.HELP or not (settings.help_text or incoming.is_answered):
        return HookReading([event], body=_NO_ANSWER, media_type=_XML)
    # answered, so that no operator needs to
    answered = ProviderEvent(
        event.channel, event.provider, event.event_id, now, recipient=event.recipient, sender=event.sender
    )
    text = "" if incoming.is_answered else f"<Message>{escape(settings.help_text)}</Message>"
    return HookReading([answered], body=f"<Response>{text}</Response>".encode(), media_type=_XML)


def _verify_twilio(request: HookRequest, urls: Sequence[ProviderUrl], settings: SmsSettings) -> Mapping[str, str]:
    # Twilio signs the public URL, which a proxy may have changed: scheme and host are those of the setting
    public = urlsplit(settings.callback_url or "")
    url = public._replace(path=public.path or request.path, query=request.query, fragment="").geturl()
    tokens = [one.secret for one in urls if one.provider == "twilio"]
    return verify_twilio(url, request.body, request.headers.get("x-twilio-signature"), tokens)


def _verify_vonage(request: HookRequest, settings: SmsSettings) -> Mapping[str, str]:
    if settings.signature_secret is None:
        raise Unauthenticated("TIDINGS_SMS__SIGNATURE_SECRET is not set")
    secrets = [settings.signature_secret.get_secret_value()]
    if (authorization := request.headers.get("authorization")) is not None:
        return verify_vonage_token(request.body, authorization, secrets, request.now)
    return verify_vonage_signature(request.body, request.query, secrets, request.now, method=settings.signature_method)
