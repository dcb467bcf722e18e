"""Mock mail service for development and tests: takes e-mail over SMTP and SMS over Twilio's API, and shows them.

In a test: `async with MockMail() as mail`. As a process: `spawn()`, or `tidings mock-mail`.
It shares no code with the channels, so that an error in a channel cannot hide itself.
"""

from tidings.mockmail.behaviour import MailRule, SmsRule
from tidings.mockmail.mailbox import Attachment, MailContent, ReceivedMail, ReceivedSms
from tidings.mockmail.server import MockMail, MockMailAddress, MockMailOptions, serve
from tidings.mockmail.spawn import spawn

__all__ = [
    "Attachment",
    "MailContent",
    "MailRule",
    "MockMail",
    "MockMailAddress",
    "MockMailOptions",
    "ReceivedMail",
    "ReceivedSms",
    "SmsRule",
    "serve",
    "spawn",
]
