"""Fault injection inside a process. Python runs this file at the start if its folder is on the PYTHONPATH.

CHAOS_POISON=<subscription id>     the process exits silently when it sends to that subscription
CHAOS_EXIT=<module>:<class>.<method>:<before|after>     the process exits before or after the first call
CHAOS_SUSPEND=<module>:<class>.<method>     the process suspends itself (SIGSTOP) after the first call
CHAOS_FASTER=<n>     leases, job locks, the send timeout and the sweep intervals are divided by n
"""

import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

#: the exit code that a shell reports for SIGKILL
SIGKILL_EXIT_CODE = 137

ModulePatch = Callable[[Any], None]


class ModulePatcher(MetaPathFinder):
    """Patches modules when they are imported, without importing any itself, so that the import order is unchanged."""

    def __init__(self) -> None:
        self._patches: dict[str, ModulePatch] = {}

    def add(self, module: str, patch: ModulePatch) -> None:
        self._patches[module] = patch

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        change = self._patches.pop(fullname, None)
        spec = PathFinder.find_spec(fullname, path, target) if change is not None else None
        if change is None or spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def changed(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = changed  # type: ignore[method-assign]  # intended
        return spec


def exit_on_send_to(target: str) -> ModulePatch:
    """Exit when the process sends to a subscription."""

    def change(module: Any) -> None:
        send = module.WebPushChannel.send

        async def send_or_exit(self: Any, message: Any) -> Any:
            if message.target.id == target:
                os._exit(SIGKILL_EXIT_CODE)
            return await send(self, message)

        module.WebPushChannel.send = send_or_exit

    return change


def exit_at_call(path: str, when: str) -> ModulePatch:
    """Exit before or after the first call of a method."""

    def change(module: Any) -> None:
        owner_name, method_name = path.split(".")
        owner = getattr(module, owner_name)
        method: Callable[..., Awaitable[Any]] = getattr(owner, method_name)

        @functools.wraps(method)
        async def call_and_exit(*arguments: Any, **named: Any) -> None:
            if when == "after":
                await method(*arguments, **named)
            os._exit(SIGKILL_EXIT_CODE)

        setattr(owner, method_name, call_and_exit)

    return change


def suspend_after_call(path: str) -> ModulePatch:
    """Suspend the process after the first call of a method."""

    def change(module: Any) -> None:
        owner_name, method_name = path.split(".")
        owner = getattr(module, owner_name)
        method: Callable[..., Awaitable[Any]] = getattr(owner, method_name)

        @functools.wraps(method)
        async def call_and_suspend(*arguments: Any, **named: Any) -> Any:
            result = await method(*arguments, **named)
            setattr(owner, method_name, method)
            os.kill(os.getpid(), signal.SIGSTOP)
            return result

        setattr(owner, method_name, call_and_suspend)

    return change


def shorten_leases(factor: float) -> ModulePatch:
    """Divide the duration of every lease."""

    def change(module: Any) -> None:
        config = module.PipelineConfig

        def create_config(*, lease_duration: timedelta, **others: Any) -> Any:
            return config(lease_duration=lease_duration / factor, **others)

        module.PipelineConfig = create_config

    return change


def shorten_locks(factor: float) -> ModulePatch:
    """Divide the lock duration of BullMQ jobs, which protects tasks that a worker received and has not claimed."""

    def change(module: Any) -> None:
        module.BullMQConsumer.__init__.__kwdefaults__["lock_duration"] /= factor

    return change


def divide_constants(*names: str, factor: float) -> ModulePatch:
    """Divide constants of a module."""

    def change(module: Any) -> None:
        for name in names:
            setattr(module, name, getattr(module, name) / factor)

    return change


module_patcher = ModulePatcher()
if value := os.environ.get("CHAOS_FASTER"):
    module_patcher.add("tidings.container", shorten_leases(float(value)))
    module_patcher.add("tidings.queues.bullmq_consumer", shorten_locks(float(value)))
    module_patcher.add("tidings.flow.deliver.sender", divide_constants("SEND_TIMEOUT", factor=float(value)))
    module_patcher.add(
        "tidings.worker.background_tasks",
        divide_constants("REAP_LEASES_EVERY", "TERMINATE_STALLED_EVERY", factor=float(value)),
    )
    module_patcher.add("tidings.stores.engine.stalled_sessions", divide_constants("STALLED_AFTER", factor=float(value)))
if value := os.environ.get("CHAOS_POISON"):
    module_patcher.add("tidings.channels.webpush.channel", exit_on_send_to(value))
if value := os.environ.get("CHAOS_EXIT"):
    module_name, path, when = value.split(":")
    module_patcher.add(module_name, exit_at_call(path, when))
if value := os.environ.get("CHAOS_SUSPEND"):
    module_name, path = value.split(":")
    module_patcher.add(module_name, suspend_after_call(path))
sys.meta_path.insert(0, module_patcher)
