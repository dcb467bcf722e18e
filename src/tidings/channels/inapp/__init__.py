"""The in-app channel: writes notifications to the feeds of users.

Takes: a rendered message for one user.
Gives: the outcome of storing it as an item of the user's feed.
Never: needs an address, or accesses the database itself.
"""

from tidings.channels.inapp.channel import InAppChannel, create_inapp_channel
from tidings.channels.inapp.plugin import InAppPlugin

plugin = InAppPlugin()

__all__ = ["InAppChannel", "InAppPlugin", "create_inapp_channel", "plugin"]
