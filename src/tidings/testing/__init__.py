"""The test kit for products that use Tidings: fakes of every provider, a frozen clock, and assertions.

docs/howto/test-your-product.md shows how to use it. Names are imported at first use, so this package is cheap to
import.
The contract suites for adapters of your own are in `tidings.testing.contracts`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidings.mockmail import MailRule, MockMail, SmsRule
    from tidings.mockpush import MockPush, ResponseRule
    from tidings.testing.assertions import assert_not_notified, assert_notified
    from tidings.testing.clock import FrozenClock
    from tidings.testing.fake_chats import FakeChats
    from tidings.testing.fake_providers import (
        AcceptMessage,
        FakeSmsProvider,
        HangConnection,
        LimitRate,
        LoseReply,
        RefuseMessage,
    )
    from tidings.testing.fake_vonage import FakeVonageProvider
    from tidings.testing.fake_webhook import FakeWebhookReceiver
    from tidings.testing.polling import eventually

__all__ = [
    "AcceptMessage",
    "FakeChats",
    "FakeSmsProvider",
    "FakeVonageProvider",
    "FakeWebhookReceiver",
    "FrozenClock",
    "HangConnection",
    "LimitRate",
    "LoseReply",
    "MailRule",
    "MockMail",
    "MockPush",
    "RefuseMessage",
    "ResponseRule",
    "SmsRule",
    "assert_not_notified",
    "assert_notified",
    "eventually",
]

_PROVIDERS = "tidings.testing.fake_providers"
_MODULES = {
    "AcceptMessage": _PROVIDERS,
    "FakeChats": "tidings.testing.fake_chats",
    "FakeSmsProvider": _PROVIDERS,
    "FakeVonageProvider": "tidings.testing.fake_vonage",
    "FakeWebhookReceiver": "tidings.testing.fake_webhook",
    "FrozenClock": "tidings.testing.clock",
    "HangConnection": _PROVIDERS,
    "LimitRate": _PROVIDERS,
    "LoseReply": _PROVIDERS,
    "MailRule": "tidings.mockmail",
    "MockMail": "tidings.mockmail",
    "MockPush": "tidings.mockpush",
    "RefuseMessage": _PROVIDERS,
    "ResponseRule": "tidings.mockpush",
    "SmsRule": "tidings.mockmail",
    "assert_not_notified": "tidings.testing.assertions",
    "assert_notified": "tidings.testing.assertions",
    "eventually": "tidings.testing.polling",
}


def __getattr__(name: str) -> object:
    if module := _MODULES.get(name):
        return getattr(import_module(module), name)
    raise AttributeError(f"module 'tidings.testing' has no attribute {name!r}")
