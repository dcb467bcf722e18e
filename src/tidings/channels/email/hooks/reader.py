"""Verifies the calls of e-mail providers and returns their events."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from cachetools import LRUCache

from tidings.channels.email.hooks import dsn, generic, mailgun, postmark, ses
from tidings.channels.email.hooks.fields import verify_secret
from tidings.channels.email.settings import EmailSettings
from tidings.channels.plugin import FeedbackPolicy, HookReading, HookRequest
from tidings.errors import NotFound
from tidings.model.receipt import ProviderEvent
from tidings.model.suppression import SoftBouncePolicy

#: certificates of SNS that are kept
_MAX_CERTIFICATES: Final = 8


class EmailHooks:
    """Implements `tidings.channels.plugin.ChannelHooks`. One per process: it keeps the certificates of SNS."""

    def __init__(
        self, settings: EmailSettings, fetch_certificate: Callable[[str], bytes] = ses.fetch_certificate
    ) -> None:
        """fetch_certificate: returns the PEM certificate at a URL; it may block. Raises Unauthenticated."""
        self._settings = settings
        self._fetch_certificate = fetch_certificate
        self._certificates: LRUCache[str, bytes] = LRUCache(_MAX_CERTIFICATES)
        #: the providers whose secrets are set
        self.providers = list_hooks(settings)
        policy = SoftBouncePolicy(
            settings.soft_bounces,
            timedelta(days=settings.soft_bounce_days),
            timedelta(days=settings.soft_bounce_pause_days),
        )
        #: when bounces suppress an address, and how long a provider may be silent
        self.feedback = FeedbackPolicy(policy, timedelta(hours=settings.max_silence_hours))

    async def read(self, request: HookRequest) -> HookReading:
        """Return the events of a call. Raises Unauthenticated, ValidationFailed, NotFound for an unknown provider."""
        settings = self._settings
        if request.provider == "ses":
            return await self._read_ses(request, settings.ses_topics)
        if request.provider == "mailgun" and settings.mailgun_signing_key is not None:
            mailgun.verify_signature(request.body, settings.mailgun_signing_key.get_secret_value(), request.now)
            return HookReading(mailgun.read_events(request.body, request.now))
        if request.provider not in _SHARED_SECRET or settings.hook_secret is None:
            raise NotFound("There is no such hook.", code="unknown_hook")
        verify_secret(request.headers, request.body, settings.hook_secret.get_secret_value())
        # a returned message may have a megabyte
        read = _SHARED_SECRET[request.provider]
        return HookReading(await asyncio.to_thread(read, request.body, request.now))

    async def _read_ses(self, request: HookRequest, topics: Sequence[str]) -> HookReading:
        envelope = ses.parse_envelope(request.body, topics)
        url = envelope.certificate_url
        if (certificate := self._certificates.get(url)) is None:
            certificate = await asyncio.to_thread(self._fetch_certificate, url)
        ses.verify_envelope(envelope, certificate)
        # kept only now, so that a wrong one is loaded again
        self._certificates[url] = certificate
        return HookReading(ses.read_events(envelope, request.now), notice=ses.describe_confirmation(envelope))


_SHARED_SECRET: Final[dict[str, Callable[..., Sequence[ProviderEvent]]]] = {
    "generic": generic.read_events,
    "postmark": postmark.read_events,
    "dsn": dsn.read_events,
}


def list_hooks(settings: EmailSettings) -> Sequence[str]:
    """Return the providers whose secrets are set."""
    shared = sorted(_SHARED_SECRET) if settings.hook_secret is not None else []
    return [
        *shared,
        *(["mailgun"] if settings.mailgun_signing_key is not None else []),
        *(["ses"] if settings.ses_topics else []),
    ]
