"""Tells an operator when messages go out and no provider of their channel reports anything.

A hook that stopped working is not noticed otherwise: messages are sent as before, and suppressions become stale.
"""

from collections.abc import Mapping
from datetime import datetime

from tidings.channels.plugin import ChannelPlugin, HasHooks
from tidings.config.settings import Settings
from tidings.model.alert import AlertName
from tidings.ports.alerts import AlertSink
from tidings.ports.store import Store


def list_channels_with_hooks(plugins: Mapping[str, ChannelPlugin], settings: Settings) -> Mapping[str, HasHooks]:
    """Return the channels of which a provider can report events. Raises ConfigError."""
    return {
        name: plugin for name, plugin in plugins.items() if isinstance(plugin, HasHooks) and plugin.list_hooks(settings)
    }


async def check_silence(store: Store, channels: Mapping[str, HasHooks], alerts: AlertSink, now: datetime) -> None:
    """Raise or end the alert `provider_silent` of each channel. channels: those with hooks, by name."""
    for name, plugin in channels.items():
        async with store.read_once() as tx:
            since = await store.receipts.find_unanswered(tx, name, now - plugin.feedback.max_silence)
        if since is None:
            alerts.resolve_alert(AlertName.PROVIDER_SILENT, name)
        else:
            alerts.raise_alert(
                AlertName.PROVIDER_SILENT,
                name,
                f"messages are sent since {since.isoformat(timespec='seconds')}, but no provider called "
                f"POST /hooks/{name}/…; check whether the provider has disabled its webhook",
            )
