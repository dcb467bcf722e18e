"""The shared queue on BullMQ, alone and with its fallback, keeps the contract of `ports.queue`."""

from collections.abc import AsyncIterator

import pytest

from tidings.ports.clock import SystemClock
from tidings.ports.queue import Queue
from tidings.queues.lanes import BullQueue
from tidings.queues.opened import open_queue
from tidings.testing.contracts.queue_contract import QueueContract


class TestBullQueue(QueueContract):
    @pytest.fixture
    def queue(self, bull: BullQueue) -> Queue:
        return bull


class TestFallbackQueue(QueueContract):
    @pytest.fixture
    async def queue(self, redis_url: str) -> AsyncIterator[Queue]:
        queue = open_queue(redis_url, "test", SystemClock(), consumes=True)
        yield queue
        await queue.close()
        await queue.release()
