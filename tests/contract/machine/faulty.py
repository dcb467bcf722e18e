"""The real store with a fault at its port: a commit that is not applied, or one that is and whose answer is lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto

from tidings.errors import BackendError
from tidings.ports.store import Transaction
from tidings.stores.connection import SqlTransaction
from tidings.stores.store import SqlStore


class Fault(Enum):
    """What goes wrong with the next transaction that writes."""

    NONE = auto()
    NOT_APPLIED = auto()
    REPLY_LOST = auto()


class FaultyStore(SqlStore):
    """One process's way to the database."""

    #: of the next transaction that writes, once
    fault = Fault.NONE
    #: how many transactions were applied without their answer
    replies_lost = 0

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        fault, self.fault = self.fault, Fault.NONE
        async with super().begin() as tx:
            yield tx
            if fault is Fault.NOT_APPLIED:
                raise BackendError("the database went away before the commit")
            if fault is Fault.REPLY_LOST:
                assert isinstance(tx, SqlTransaction)
                # whoever hears nothing of the commit does not go on after it
                tx.after_commit.clear()
        if fault is Fault.REPLY_LOST:
            self.replies_lost += 1
            raise BackendError("the database went away after the commit")
