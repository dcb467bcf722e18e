"""Tidings, a notification service: it resolves audiences, delivers messages and records the outcome of each.

`Tidings` is the library client, `audience` composes recipients, `errors` holds the exceptions. Names are imported at
first use, so importing this package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidings import errors
    from tidings.client import NotificationHandle, NotificationTrace, Tidings
    from tidings.model import audience
    from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
    from tidings.model.priority import Priority
    from tidings.model.subject import SubjectRequest

__version__ = "0.1.0"

__all__ = [
    "Accepted",
    "InvalidTarget",
    "NotificationHandle",
    "NotificationTrace",
    "Outcome",
    "PermanentFailure",
    "Priority",
    "RetryLater",
    "SubjectRequest",
    "Tidings",
    "audience",
    "errors",
]

_MODULES = {
    "Accepted": "tidings.model.outcome",
    "InvalidTarget": "tidings.model.outcome",
    "NotificationHandle": "tidings.client",
    "NotificationTrace": "tidings.client",
    "Outcome": "tidings.model.outcome",
    "PermanentFailure": "tidings.model.outcome",
    "Priority": "tidings.model.priority",
    "RetryLater": "tidings.model.outcome",
    "SubjectRequest": "tidings.model.subject",
    "Tidings": "tidings.client",
}


def __getattr__(name: str) -> object:
    if name == "audience":
        return import_module("tidings.model.audience")
    if module := _MODULES.get(name):
        return getattr(import_module(module), name)
    raise AttributeError(f"module 'tidings' has no attribute {name!r}")
