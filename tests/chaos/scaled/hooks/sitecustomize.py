"""Run by Python at the start of a process that has this folder on its PYTHONPATH: harm done from inside, for tests.

CHAOS_POISON=<subscription id>     the process ends, without a word, when it sends to that subscription
CHAOS_EXIT=<module>:<class>.<method>:<before|after>     it ends before or after the first call of that coroutine
CHAOS_FASTER=<n>     leases, the locks of jobs, the longest send and the sweep take an n-th of their time
"""

import functools
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

#: what a shell reports for SIGKILL
KILLED = 137

Change = Callable[[Any], None]


class Changes(MetaPathFinder):
    """Changes modules when they are imported, and imports none itself: the order of imports stays the product's."""

    def __init__(self) -> None:
        self._wanted: dict[str, Change] = {}

    def add(self, module: str, change: Change) -> None:
        self._wanted[module] = change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        change = self._wanted.pop(fullname, None)
        spec = PathFinder.find_spec(fullname, path, target) if change is not None else None
        if change is None or spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def changed(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = changed  # type: ignore[method-assign]  # that is what it is for
        return spec


def poison(target: str) -> Change:
    """End the process when it sends to a subscription."""

    def change(module: Any) -> None:
        send = module.WebPushChannel.send

        async def poisoned(self: Any, message: Any) -> Any:
            if message.target.id == target:
                os._exit(KILLED)
            return await send(self, message)

        module.WebPushChannel.send = poisoned

    return change


def exit_at(path: str, when: str) -> Change:
    """End the process before or after the first call of a method."""

    def change(module: Any) -> None:
        owner_name, method_name = path.split(".")
        owner = getattr(module, owner_name)
        method: Callable[..., Awaitable[Any]] = getattr(owner, method_name)

        @functools.wraps(method)
        async def fatal(*arguments: Any, **named: Any) -> None:
            if when == "after":
                await method(*arguments, **named)
            os._exit(KILLED)

        setattr(owner, method_name, fatal)

    return change


def faster_leases(times: float) -> Change:
    """Shorten every lease."""

    def change(module: Any) -> None:
        sizes = module.Sizes

        def shorter(*, lease: timedelta, **others: Any) -> Any:
            return sizes(lease=lease / times, **others)

        module.Sizes = shorter

    return change


def faster_locks(times: float) -> Change:
    """Shorten the locks of the queue's jobs: what a dead worker had taken and not claimed yet."""

    def change(module: Any) -> None:
        module.JobSource.__init__.__kwdefaults__["lock"] /= times

    return change


def divided(name: str, times: float) -> Change:
    """Shorten one constant of a module."""
    return lambda module: setattr(module, name, getattr(module, name) / times)


changes = Changes()
if chosen := os.environ.get("CHAOS_FASTER"):
    changes.add("tidings.runtime", faster_leases(float(chosen)))
    changes.add("tidings.queues.bullmq", faster_locks(float(chosen)))
    changes.add("tidings.flow.deliver.send", divided("LONGEST_SEND", float(chosen)))
    changes.add("tidings.worker.rounds", divided("SWEEP_EVERY", float(chosen)))
if chosen := os.environ.get("CHAOS_POISON"):
    changes.add("tidings.channels.webpush.channel", poison(chosen))
if chosen := os.environ.get("CHAOS_EXIT"):
    module_name, path, when = chosen.split(":")
    changes.add(module_name, exit_at(path, when))
sys.meta_path.insert(0, changes)
