"""Background tasks of channels: which processes run them, and that VAPID keys are loaded by every process."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from tidings.channels.plugin import BackgroundTask, ChannelContext, TaskScope
from tidings.channels.webpush.plugin import WebPushPlugin
from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.worker import start_worker
from tidings.worker.background_tasks import run_api_background_tasks

#: shorter than the time between two checks of a schedule
EVERY = timedelta(seconds=0.01)


class PluginWithTasks(WebPushPlugin):
    """Web Push with one task of each scope."""

    def __init__(self) -> None:
        self.ran = {scope: asyncio.Event() for scope in TaskScope}

    def create_tasks(self, _context: ChannelContext) -> Sequence[BackgroundTask]:
        async def fail(event: asyncio.Event) -> None:
            event.set()
            raise ValueError("the next run repeats it")

        return [
            BackgroundTask(scope.name.lower(), EVERY, lambda event=event: fail(event), scope)  # type: ignore[misc]
            for scope, event in self.ran.items()
        ]


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[AppContainer]:
    async with AppContainer.open(Settings(data_dir=tmp_path), role=Role.SERVE) as opened:
        plugin = PluginWithTasks()
        yield dataclasses.replace(opened, plugins={**opened.plugins, "webpush": plugin})


def ran_of(runtime: AppContainer) -> dict[TaskScope, asyncio.Event]:
    plugin = runtime.plugins["webpush"]
    assert isinstance(plugin, PluginWithTasks)
    return plugin.ran


async def test_a_worker_runs_the_tasks_of_every_scope(runtime: AppContainer) -> None:
    ran = ran_of(runtime)
    async with start_worker(runtime), asyncio.timeout(20):
        await asyncio.gather(*(event.wait() for event in ran.values()))
        # a failed run ends neither the loop nor the worker
        for event in ran.values():
            event.clear()
        await asyncio.gather(*(event.wait() for event in ran.values()))


async def test_an_api_process_runs_only_the_tasks_of_each_process(runtime: AppContainer) -> None:
    ran = ran_of(runtime)
    async with run_api_background_tasks(runtime), asyncio.timeout(20):
        await ran[TaskScope.EACH_PROCESS].wait()
        ran[TaskScope.EACH_PROCESS].clear()
        await ran[TaskScope.EACH_PROCESS].wait()
    assert not ran[TaskScope.EACH_WORKER].is_set()
    assert not ran[TaskScope.ONE_WORKER].is_set()


async def test_the_vapid_keys_are_reloaded_by_each_process(tmp_path: Path) -> None:
    async with AppContainer.open(Settings(data_dir=tmp_path)) as runtime:
        scopes = {(channel, task.name): task.scope for channel, task in runtime.create_plugin_tasks()}
    assert scopes["webpush", "reload_keys"] is TaskScope.EACH_PROCESS
