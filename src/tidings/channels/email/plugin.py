"""The declaration of the e-mail channel."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tidings.channels.email.addresses import parse_address
from tidings.channels.email.channel import EmailChannel, create_email_channel
from tidings.channels.email.hooks.reader import EmailHooks
from tidings.channels.email.layout import MailLayout
from tidings.channels.email.lint import lint_email
from tidings.channels.email.settings import PREFIX, SHORT_NAME, EmailSettings, load_email_settings
from tidings.channels.plugin import ChannelContext, CheckContext
from tidings.config.settings import Settings
from tidings.errors import ConfigError, ValidationFailed
from tidings.model.channel import ChannelTraits
from tidings.model.check import CheckResult
from tidings.model.lint import LintFinding
from tidings.model.template import Category, RenderedMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastapi import APIRouter

    from tidings.ports.pack_context import PackContext


class EmailPlugin:
    """Implements `tidings.channels.plugin.ChannelPlugin`."""

    traits = ChannelTraits("e-mail address", setting=SHORT_NAME)

    def is_configured(self, settings: Settings) -> bool:
        """Return whether there are a relay and a sender. Raises ConfigError naming the setting and the fix."""
        return load_email_settings(settings).is_configured

    def parse_address(self, address: str, _settings: Settings) -> str:
        """Return an e-mail address with its domain in lower case and ASCII. Raises ValueError with what it must be."""
        try:
            return parse_address(address)
        except ValidationFailed as error:
            raise ValueError(error.field_errors[0].message) from None

    def list_categories(self, settings: Settings) -> Mapping[str, Sequence[str]]:
        """Return the codes of categories by the name of their setting. Raises ConfigError."""
        own = load_email_settings(settings)
        return {
            f"{PREFIX}{name.upper()}": getattr(own, name) for name in ("track_opens", "track_clicks", "duplicate_ok")
        }

    def create_linter(self, settings: Settings) -> Callable[[RenderedMessage, Category], Sequence[LintFinding]]:
        """Return what measures the HTML of messages. Raises ConfigError."""
        return partial(lint_email, layout=MailLayout(load_email_settings(settings)))

    def create_hooks(self, settings: Settings) -> EmailHooks:
        """Return what reads the calls of providers. Raises ConfigError naming the setting."""
        return EmailHooks(load_email_settings(settings))

    async def check(self, context: CheckContext) -> Sequence[CheckResult]:
        """Connect to the relays, and read the DKIM key. Raises ConfigError."""
        settings = load_email_settings(context.settings)
        if not settings.is_configured:
            return []
        # imported here, because only `tidings doctor` needs it
        from tidings.channels.email.checks import check_email

        return await check_email(settings)

    def create_router(self, context: PackContext) -> APIRouter:
        """Return the routes of unsubscribe links and of tracked links."""
        # imported here because FastAPI takes long to import, which the command line and workers do not need
        from tidings.channels.email import routes, tracking_routes

        find_settings = partial(_find_settings, context)
        router = routes.create_router(context, find_settings)
        router.include_router(tracking_routes.create_router(context, find_settings))
        return router

    def create(self, context: ChannelContext) -> EmailChannel:
        """Return the channel, not opened yet. Raises ConfigError naming the setting and the fix."""
        channel = create_email_channel(
            load_email_settings(context.settings),
            context.clock,
            public_url=context.settings.frontend_url,
            secret_key=context.settings.secret_key,
            alerts=context.alerts,
        )
        if channel is None:
            raise ConfigError(SHORT_NAME, "is not set; set it to the URL of a relay")
        return channel


def _find_settings(context: PackContext) -> EmailSettings:
    """Return the settings of the configured channel, or those of a server without e-mail."""
    channel = context.channels.get(EmailChannel.name)
    return channel.settings if isinstance(channel, EmailChannel) else load_email_settings(context.settings)
