"""The SQL store with injected commit faults: a commit that is not applied, or one whose reply is lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto

from tidings.errors import BackendError
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import SqlTransaction
from tidings.stores.store import SqlStore


class CommitFault(Enum):
    """The fault of the next write transaction."""

    NONE = auto()
    NOT_APPLIED = auto()
    REPLY_LOST = auto()


class FaultyStore(SqlStore):
    """The store of one process, with injected commit faults."""

    #: the fault of the next write transaction; applies once
    next_fault = CommitFault.NONE
    #: number of transactions that were applied and whose reply was lost
    lost_reply_count = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        fault, self.next_fault = self.next_fault, CommitFault.NONE
        async with super().transaction() as tx:
            yield tx
            if fault is CommitFault.NOT_APPLIED:
                raise BackendError("the connection was lost before the commit")
            if fault is CommitFault.REPLY_LOST:
                assert isinstance(tx, SqlTransaction)
                # without a reply the caller does not run its commit callbacks
                tx.commit_callbacks.clear()
        if fault is CommitFault.REPLY_LOST:
            self.lost_reply_count += 1
            raise BackendError("the connection was lost after the commit")
