"""The whole suite for `ports.store.Store`, put together from one per kind of row."""

from tidings.testing.contracts.batches_contract import BatchesContract
from tidings.testing.contracts.crashes_contract import CrashesContract
from tidings.testing.contracts.idempotency_contract import IdempotencyContract
from tidings.testing.contracts.leases_contract import LeasesContract
from tidings.testing.contracts.ledger_contract import KeysContract, TransactionsContract
from tidings.testing.contracts.notifications_contract import NotificationsContract
from tidings.testing.contracts.outbox_contract import OutboxContract
from tidings.testing.contracts.outcomes_contract import OutcomesContract
from tidings.testing.contracts.people_contract import SubscriptionsContract, UsersContract


class StoreContract(
    LeasesContract,
    CrashesContract,
    BatchesContract,
    OutcomesContract,
    NotificationsContract,
    OutboxContract,
    UsersContract,
    SubscriptionsContract,
    KeysContract,
    IdempotencyContract,
    TransactionsContract,
):
    """Subclass it in a test file and give a fixture `store`: an empty, upgraded store of the adapter.

    The store must know the kinds of audience of the built-in packs.
    """
