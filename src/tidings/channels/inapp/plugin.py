"""The declaration of the in-app channel."""

from typing import Final

from pydantic import BaseModel, ConfigDict

from tidings.channels.channel_settings import load_channel_settings
from tidings.channels.inapp.channel import InAppChannel, create_inapp_channel
from tidings.channels.plugin import ChannelContext
from tidings.config.settings import Settings
from tidings.model.channel import ChannelTraits

PREFIX: Final = "TIDINGS_INAPP__"


class InAppSettings(BaseModel):
    """Settings of the in-app channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: write notifications to the feeds of users; each user has a feed
    enabled: bool = False


class InAppPlugin:
    """Implements `tidings.channels.plugin.ChannelPlugin`."""

    traits = ChannelTraits("feed", needs_contact_point=False, interrupts=False, setting=f"{PREFIX}ENABLED")

    def is_configured(self, _settings: Settings) -> bool:
        """Return whether feeds are written. Raises ConfigError naming the setting and the fix."""
        return load_channel_settings(InAppSettings, PREFIX).enabled

    def parse_address(self, _address: str) -> str:
        """Raise ValueError: each user has one feed."""
        raise ValueError("is not needed: each user has one feed")

    def create(self, context: ChannelContext) -> InAppChannel:
        """Return the channel."""
        return create_inapp_channel(context.store, context.clock, context.broadcaster)
