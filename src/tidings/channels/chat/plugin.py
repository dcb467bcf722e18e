"""The declaration of the chat channel."""

from collections.abc import Sequence
from importlib.util import find_spec

from tidings.channels.chat.channel import DEFAULT_RETRY_POLICY, ChatChannel
from tidings.channels.chat.destination import INSTALL, describe_destination, parse_destination
from tidings.channels.chat.settings import PREFIX, ChatSettings, create_chat_channel
from tidings.channels.plugin import ChannelContext, CheckContext
from tidings.config.plugin_settings import load_plugin_settings
from tidings.config.settings import Settings
from tidings.errors import ConfigError
from tidings.model.channel import ChannelTraits
from tidings.model.check import CheckResult
from tidings.ports.clock import SystemClock


class ChatPlugin:
    """Implements `tidings.channels.plugin.ChannelPlugin`."""

    traits = ChannelTraits(
        "chat destination", max_attempts=DEFAULT_RETRY_POLICY.max_attempts, setting=f"{PREFIX}ENABLED"
    )

    def is_configured(self, settings: Settings) -> bool:
        """Return whether chats are enabled. Raises ConfigError naming the setting and the fix."""
        if not load_chat_settings(settings).enabled:
            return False
        if find_spec("apprise") is None:
            raise ConfigError(f"{PREFIX}ENABLED", f"needs an extra that is not installed: {INSTALL}")
        return True

    def parse_address(self, address: str, settings: Settings) -> str:
        """Return the canonical form of an apprise URL. Raises ValueError with what it must be."""
        try:
            return parse_destination(address.strip(), frozenset(load_chat_settings(settings).trusted_hosts)).address
        except ImportError:
            raise ValueError(f"cannot be checked: this server lacks apprise; {INSTALL}") from None

    def describe_address(self, address: str) -> str:
        """Return an address without its tokens."""
        return describe_destination(address)

    async def check(self, context: CheckContext) -> Sequence[CheckResult]:
        """Check apprise and the base URLs, and reach own servers. Raises ConfigError."""
        if not self.is_configured(context.settings):
            return []
        # imported here, because only `tidings doctor` needs it
        from tidings.channels.chat.checks import check_chat

        return await check_chat(load_chat_settings(context.settings), SystemClock())

    def create(self, context: ChannelContext) -> ChatChannel:
        """Return the channel, not opened yet. Raises ConfigError naming the setting and the fix."""
        channel = create_chat_channel(load_chat_settings(context.settings), context.clock)
        if channel is None:
            raise ConfigError(f"{PREFIX}ENABLED", "is false; set it to true")
        return channel


def load_chat_settings(settings: Settings) -> ChatSettings:
    """Return the settings of the chat channel. Raises ConfigError."""
    return load_plugin_settings(ChatSettings, PREFIX, values=settings.channel_values)
