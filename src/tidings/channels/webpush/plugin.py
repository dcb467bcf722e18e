"""The declaration of the Web Push channel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from tidings.channels.plugin import BackgroundTask, ChannelContext, CheckContext, TaskScope
from tidings.channels.webpush import server_keys
from tidings.channels.webpush.channel import WebPushChannel
from tidings.channels.webpush.checks import check
from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy
from tidings.channels.webpush.receipts import ReceiptPolicy
from tidings.channels.webpush.settings import (
    FALLBACK_SUBJECT,
    PREFIX,
    list_webpush_settings,
    load_webpush_settings,
)
from tidings.config.settings import Settings, SettingSource
from tidings.model.channel import ChannelTraits
from tidings.model.check import CheckResult
from tidings.model.delivery import SkipReason

if TYPE_CHECKING:
    from cyclopts import App
    from fastapi import APIRouter

    from tidings.ports.command_host import CommandHost
    from tidings.ports.pack_context import PackContext

log = structlog.get_logger(__name__)

#: between reads of the VAPID keys, which another process may have added
RELOAD_KEYS_EVERY: Final = timedelta(seconds=10)


class WebPushPlugin:
    """Implements `tidings.channels.plugin.ChannelPlugin`."""

    traits = ChannelTraits("device", missing_contact=SkipReason.NO_DEVICE)

    def is_configured(self, settings: Settings) -> bool:
        """Return True: the keys are created at the first start. Raises ConfigError naming the setting and the fix."""
        load_webpush_settings(settings)
        return True

    def list_settings(self, settings: Settings) -> Sequence[SettingSource]:
        """Return the settings with their sources. Raises ConfigError."""
        return list_webpush_settings(settings)

    def list_categories(self, settings: Settings) -> Mapping[str, Sequence[str]]:
        """Return the codes of categories by the name of their setting. Raises ConfigError."""
        own = load_webpush_settings(settings)
        return {f"{PREFIX}{name.upper()}": getattr(own, name) for name in ("track_shown", "track_clicks")}

    def list_receipt_categories(self, settings: Settings) -> Collection[str]:
        """Return the codes of the categories in which browsers report that they showed a message."""
        return load_webpush_settings(settings).track_shown

    def parse_address(self, _address: str, _settings: Settings) -> str:
        """Raise ValueError: devices are registered by the browser."""
        raise ValueError("must be registered by the browser with POST /api/push/subscribe")

    def create(self, context: ChannelContext) -> WebPushChannel:
        """Return the channel, not opened yet and without keys, which `prepare` loads. Raises ConfigError."""
        settings = load_webpush_settings(context.settings)
        return WebPushChannel(
            (),
            settings.subject,
            EndpointPolicy.parse(",".join(settings.extra_hosts)),
            context.clock,
            context.settings.workers,
            settings.ca_file,
            context.alerts,
            receipts=ReceiptPolicy(
                context.settings.secret_key, shown=settings.track_shown, clicks=settings.track_clicks
            ),
        )

    async def prepare(self, context: ChannelContext) -> None:
        """Load the VAPID keys; create one at the first start. Raises ConfigError for a wrong secret key."""
        await server_keys.load_keys(context)

    def create_tasks(self, context: ChannelContext) -> Sequence[BackgroundTask]:
        """Return the task that loads keys of other processes, and retires unused ones.

        Each server process calls it once, so it also warns of a missing contact.
        """
        if load_webpush_settings(context.settings).subject == FALLBACK_SUBJECT and not context.settings.demo:
            log.warning(
                "vapid_subject_missing",
                setting="TIDINGS_VAPID_SUBJECT",
                hint="push services cannot contact you; set it to mailto:you@example.com",
            )
        work = partial(server_keys.reload_keys, context)
        return [BackgroundTask("reload_keys", RELOAD_KEYS_EVERY, work, TaskScope.EACH_PROCESS)]

    async def check(self, context: CheckContext) -> Sequence[CheckResult]:
        """Check the contact for push services, https, and the keys in the database."""
        return await check(context)

    def create_commands(self, host: CommandHost) -> App:
        """Return `tidings vapid`."""
        # imported here, because only the command line needs it
        from tidings.channels.webpush.commands import create_commands

        return create_commands(host)

    def create_router(self, context: PackContext) -> APIRouter:
        """Return the routes under /api/push."""
        # imported here because FastAPI takes long to import, which the command line and workers do not need
        from tidings.channels.webpush.routes import create_router

        return create_router(context)
