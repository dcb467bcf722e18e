"""The settings of a channel, `TIDINGS_<CHANNEL>__…`: the functions of `config.plugin_settings` under its name."""

from tidings.config.plugin_settings import list_plugin_settings as list_channel_settings
from tidings.config.plugin_settings import load_plugin_settings as load_channel_settings

__all__ = ["list_channel_settings", "load_channel_settings"]
