"""Tells an operator when messages go out and no provider of their channel reports anything.

A hook that stopped working is not noticed otherwise: messages are sent as before, and suppressions become stale.
"""

from collections.abc import Mapping
from datetime import datetime

from tidings.channels.plugin import ChannelHooks, ChannelPlugin, HasHooks
from tidings.config.settings import Settings
from tidings.model.alert import AlertName
from tidings.ports.alerts import AlertSink
from tidings.ports.store import Store


def create_hooks(plugins: Mapping[str, ChannelPlugin], settings: Settings) -> Mapping[str, ChannelHooks]:
    """Return the hooks by channel; of some no provider can report events yet. Raises ConfigError."""
    return {name: plugin.create_hooks(settings) for name, plugin in plugins.items() if isinstance(plugin, HasHooks)}


async def check_silence(store: Store, hooks: Mapping[str, ChannelHooks], alerts: AlertSink, now: datetime) -> None:
    """Raise or end the alert `provider_silent` of each channel. hooks: those of the configured channels, by channel."""
    for name, channel_hooks in hooks.items():
        async with store.read_once() as tx:
            since = await store.receipts.find_unanswered(tx, name, now - channel_hooks.feedback.max_silence)
        if since is None:
            alerts.resolve_alert(AlertName.PROVIDER_SILENT, name)
        else:
            alerts.raise_alert(
                AlertName.PROVIDER_SILENT,
                name,
                f"messages are sent since {since.isoformat(timespec='seconds')}, but no provider called "
                f"POST /hooks/{name}/…; check whether the provider has disabled its webhook",
            )
