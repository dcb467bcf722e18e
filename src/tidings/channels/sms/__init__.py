"""SMS through providers with Twilio's or Vonage's API.

Takes: a message for one phone number.
Gives: an outcome, decided by what the provider's answer is about: the recipient, the message, or the provider.
Never: sends to a country that is not allowed, or beyond a daily cap. Accesses nothing but the caps in the database.
"""

from tidings.channels.sms.channel import SmsChannel
from tidings.channels.sms.plugin import SmsPlugin
from tidings.channels.sms.settings import SmsSettings, create_sms_channel

plugin = SmsPlugin()

__all__ = ["SmsChannel", "SmsPlugin", "SmsSettings", "create_sms_channel", "plugin"]
