"""Chat messages to Slack, Microsoft Teams, Discord and Telegram.

Takes: a message for one destination, whose address is a URL as apprise writes it.
Gives: an outcome, decided by what the service confirmed.
Never: accesses the database, mentions people or channels that a variable names, or sends faster than a service permits.
"""

from tidings.channels.chat.channel import ChatChannel
from tidings.channels.chat.plugin import ChatPlugin
from tidings.channels.chat.settings import ChatSettings, create_chat_channel

plugin = ChatPlugin()

__all__ = ["ChatChannel", "ChatPlugin", "ChatSettings", "create_chat_channel", "plugin"]
