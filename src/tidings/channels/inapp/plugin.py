"""The declaration of the in-app channel."""

from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

from tidings.channels.inapp.channel import InAppChannel, create_inapp_channel
from tidings.channels.plugin import ChannelContext, CheckContext
from tidings.config.plugin_settings import load_plugin_settings
from tidings.config.settings import Settings
from tidings.model.channel import ChannelTraits
from tidings.model.check import CheckResult
from tidings.ports.clock import SystemClock

PREFIX: Final = "TIDINGS_INAPP__"


class InAppSettings(BaseModel):
    """Settings of the in-app channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: write notifications to the feeds of users; each user has a feed
    enabled: bool = True


class InAppPlugin:
    """Implements `tidings.channels.plugin.ChannelPlugin`."""

    traits = ChannelTraits("feed", needs_contact_point=False, interrupts=False, setting=f"{PREFIX}ENABLED")

    def is_configured(self, settings: Settings) -> bool:
        """Return whether feeds are written. Raises ConfigError naming the setting and the fix."""
        return load_plugin_settings(InAppSettings, PREFIX, values=settings.channel_values).enabled

    def parse_address(self, _address: str, _settings: Settings) -> str:
        """Raise ValueError: each user has one feed."""
        raise ValueError("is not needed: each user has one feed")

    async def check(self, context: CheckContext) -> Sequence[CheckResult]:
        """Read the tables of feeds, and check what browsers need to read a feed. Raises ConfigError."""
        if not self.is_configured(context.settings):
            return []
        results = []
        if context.store is not None:
            async with context.store.read_once() as tx:
                await context.store.inbox.has_due(tx, None, SystemClock().now())
            results.append(CheckResult("ok", "feeds", "can be read from the database"))
        if not context.settings.user_secret:
            message = "is not set: browsers read feeds with user tokens, which the host product signs with it"
            results.append(CheckResult("warning", "TIDINGS_USER_SECRET", message))
        return results

    def create(self, context: ChannelContext) -> InAppChannel:
        """Return the channel."""
        return create_inapp_channel(context.store, context.clock, context.broadcaster)
