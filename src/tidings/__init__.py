"""Tidings: who must know, what to say, over which channel and when — and what happened to every message.

`Tidings` is the library, `audience` describes who, `tidings.errors` what can go wrong. Importing this package is
cheap: everything is loaded at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidings import errors
    from tidings.facade import Handle, Tidings, Trace
    from tidings.model import audience
    from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused
    from tidings.model.priority import Priority

__version__ = "0.1.0"

__all__ = [
    "Deferred",
    "Delivered",
    "Gone",
    "Handle",
    "Outcome",
    "Priority",
    "Refused",
    "Tidings",
    "Trace",
    "audience",
    "errors",
]

_HOMES = {
    "Deferred": "tidings.model.outcome",
    "Delivered": "tidings.model.outcome",
    "Gone": "tidings.model.outcome",
    "Handle": "tidings.facade",
    "Outcome": "tidings.model.outcome",
    "Priority": "tidings.model.priority",
    "Refused": "tidings.model.outcome",
    "Tidings": "tidings.facade",
    "Trace": "tidings.facade",
}


def __getattr__(name: str) -> object:
    if name == "audience":
        return import_module("tidings.model.audience")
    if home := _HOMES.get(name):
        return getattr(import_module(home), name)
    raise AttributeError(f"module 'tidings' has no attribute {name!r}")
