"""E-mail over SMTP (RFC 5321, 5322).

Takes: a rendered message, and the address of one recipient.
Gives: an outcome, decided by the replies of the relays.
Never: accesses the database, sends to two recipients in one transaction, or uses a connection for two sends at once.
"""

from tidings.channels.email.addresses import parse_address
from tidings.channels.email.channel import EmailChannel, create_email_channel
from tidings.channels.email.plugin import EmailPlugin
from tidings.channels.email.unsubscribe import Unsubscription, sign_unsubscription, verify_unsubscription

plugin = EmailPlugin()

__all__ = [
    "EmailChannel",
    "EmailPlugin",
    "Unsubscription",
    "create_email_channel",
    "parse_address",
    "plugin",
    "sign_unsubscription",
    "verify_unsubscription",
]
