"""The BullMQ queue satisfies the contract of `ports.queue`, with and without local fallback."""

from collections.abc import AsyncIterator

import pytest

from tidings.ports.clock import SystemClock
from tidings.ports.queue import Queue
from tidings.queues.bullmq_queue import BullMQQueue
from tidings.queues.factory import create_queue
from tidings.testing.contracts.queue_contract import QueueContract


class TestBullMQQueue(QueueContract):
    @pytest.fixture
    def queue(self, bull: BullMQQueue) -> Queue:
        return bull


class TestFailoverQueue(QueueContract):
    @pytest.fixture
    async def queue(self, redis_url: str) -> AsyncIterator[Queue]:
        queue = create_queue(redis_url, "test", SystemClock(), is_consumer=True)
        yield queue
        await queue.stop()
        await queue.aclose()
