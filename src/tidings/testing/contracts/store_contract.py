"""The complete suite for `ports.store.Store`, composed of one suite per kind of row."""

from tidings.testing.contracts.alerts_contract import AlertsContract
from tidings.testing.contracts.batches_contract import BatchesContract
from tidings.testing.contracts.contact_health_contract import ContactHealthContract
from tidings.testing.contracts.contact_points_contract import ContactPointsContract
from tidings.testing.contracts.crashes_contract import CrashesContract
from tidings.testing.contracts.digests_contract import DigestsContract
from tidings.testing.contracts.idempotency_contract import IdempotencyContract
from tidings.testing.contracts.inbox_contract import InboxContract
from tidings.testing.contracts.leases_contract import LeasesContract
from tidings.testing.contracts.ledger_contract import KeysContract, TransactionsContract
from tidings.testing.contracts.notifications_contract import NotificationsContract
from tidings.testing.contracts.outbox_contract import OutboxContract
from tidings.testing.contracts.outcomes_contract import OutcomesContract
from tidings.testing.contracts.people_contract import SubscriptionsContract, UsersContract
from tidings.testing.contracts.provider_events_contract import ProviderEventsContract
from tidings.testing.contracts.user_schedules_contract import UserSchedulesContract


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
    AlertsContract,
    ContactPointsContract,
    ContactHealthContract,
    InboxContract,
    ProviderEventsContract,
    UserSchedulesContract,
    DigestsContract,
):
    """Provide a fixture `store`: an empty, upgraded store of the adapter.

    The store must support the audience kinds of the built-in packs.
    """
