"""The store, the source of truth. One small protocol per kind of row; every call runs in the transaction passed to it.

`transaction()` opens a transaction for writing, `read_snapshot()` one for reading a consistent snapshot.
`read_once()` is for a single query, `adopt()` for the caller's own transaction.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

from tidings.model.contact_point import ContactPoint, ContactPointState
from tidings.model.delivery import AttemptResult, ClaimedDelivery, PlannedDelivery, SkipRecord
from tidings.model.notification import Notification, NotificationCounts, NotificationState, StopReason
from tidings.model.priority import Lane
from tidings.model.subject import PriorDelivery, SubjectNotification, SupersededNotification, Supersession
from tidings.model.subscription import PushSubscription, SubscriptionState, TargetChange
from tidings.model.task import Task
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.model.user import User
from tidings.ports.alerts import Alerts
from tidings.ports.audiences import Audiences, SavedAudiences, Topics
from tidings.ports.awaited_events import AwaitedEvents
from tidings.ports.contact_health import ContactHealthStore
from tidings.ports.digests import Digests
from tidings.ports.idempotency_keys import IdempotencyKeys
from tidings.ports.idempotency_keys import IdempotentRequest as IdempotentRequest  # part of this protocol
from tidings.ports.idempotency_keys import StoredResponse as StoredResponse  # part of this protocol
from tidings.ports.inbox import Inbox
from tidings.ports.operations import DeadLetters, Processes, Schedules, UserRateLimits
from tidings.ports.personal_data import PersonalData
from tidings.ports.provider_events import Receipts, Suppressions
from tidings.ports.quotas import Quotas
from tidings.ports.recurring import RecurringNotifications
from tidings.ports.status_events import StatusEvents
from tidings.ports.steps import Steps
from tidings.ports.transaction import Transaction as Transaction  # part of this protocol
from tidings.ports.user_schedules import UserSchedules
from tidings.ports.users import Users
from tidings.ports.vapid_keys import VapidKeys

_T = TypeVar("_T")


class Notifications(Protocol):
    async def add_many(self, tx: Transaction, notifications: Sequence[Notification]) -> None: ...
    async def get(self, tx: Transaction, notification_id: str) -> Notification | None: ...
    async def get_many(self, tx: Transaction, notification_ids: Collection[str]) -> Sequence[Notification]:
        """Return the notifications that exist, in no particular order."""
        ...

    async def list_page(
        self,
        tx: Transaction,
        *,
        before: str | None,
        limit: int,
        state: NotificationState | None = None,
        category: str | None = None,
        template: str | None = None,
        user_id: str | None = None,
    ) -> Sequence[Notification]:
        """Return a page, newest first. before: the last id of the previous page."""
        ...

    async def compare_and_set_progress_many(
        self, tx: Transaction, transitions: Sequence[tuple[Notification, Notification]]
    ) -> set[str]:
        """Compare-and-set state, cursor and counts for pairs of (before, after), in one statement.

        Returns the ids of those that were updated. The others were updated or cancelled by another process.
        """
        ...

    # counts of later steps: notification id → (deliveries, skips)
    async def add_counts(self, tx: Transaction, counts: Mapping[str, tuple[int, int]]) -> None: ...
    async def cancel(self, tx: Transaction, notification_id: str) -> bool:
        """Compare-and-set the state to cancelled. Returns False if it was cancelled already."""
        ...

    async def find_stopped(self, tx: Transaction, notification_ids: Collection[str]) -> Mapping[str, StopReason]:
        """Return those that were cancelled or superseded, with the reason."""
        ...

    async def get_counts(self, tx: Transaction, notification_id: str) -> NotificationCounts: ...
    async def list_open(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[Notification]:
        """Return notifications whose fan-out is not complete, oldest first. A queue reset re-enqueues them."""
        ...


class Subjects(Protocol):
    """The order of the notifications on one subject, and what each user heard of it."""

    async def lock(self, tx: Transaction, keys: Collection[str]) -> None:
        """Wait until no other transaction accepts notifications on these subjects, and keep others waiting."""
        ...

    async def find_newest(self, tx: Transaction, keys: Collection[str]) -> Mapping[str, tuple[int, str]]:
        """Return key → (version, notification id) of the newest notification. Subjects without one are left out."""
        ...

    async def find_newer(
        self, tx: Transaction, key: str, *, version: int, user_ids: Collection[str] | None
    ) -> str | None:
        """Return the id of the newest notification that supersedes one of this version to these users."""
        ...

    async def find_newer_for_user(self, tx: Transaction, notification_id: str, user_id: str) -> str | None:
        """Return the id of the newer notification that superseded a notification for one of its users."""
        ...

    async def supersede(self, tx: Transaction, newer: Sequence[Supersession]) -> Mapping[str, SupersededNotification]:
        """Mark the older notifications on a subject that are superseded for all of their users.

        newer: on one subject, newest first, at least one. Returns those that were not marked before, by id.
        """
        ...

    async def withdraw(self, tx: Transaction, key: str) -> Sequence[str]:
        """Cancel the notifications on a subject, and on the subjects below it, that are partly unsent.

        Returns their ids.
        """
        ...

    async def wait_for_claims(self, tx: Transaction) -> None:
        """Wait for the claims in progress. Claims that begin later read what was committed before this call."""
        ...

    async def list_history(
        self, tx: Transaction, key: str, *, before: int | None = None, limit: int
    ) -> Sequence[SubjectNotification]:
        """Return the notifications on a subject, newest first. before: only older versions than this."""
        ...

    async def has_unsent(self, tx: Transaction, notification_id: str) -> bool:
        """Return whether the fan-out is not complete or deliveries are pending or being sent."""
        ...

    async def list_prior_deliveries(
        self, tx: Transaction, notification_ids: Collection[str], user_ids: Collection[str]
    ) -> Sequence[PriorDelivery]:
        """Return what became of notifications for users. Users for whom nothing was planned are left out."""
        ...


#: a delivery is quarantined ("poison message") after this many workers died while they sent it
MAX_WORKER_CRASHES = 3
#: clocks of processes may differ by this much; a row written later than that was written by a wrong clock
MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class LeaseRelease:
    """Deliveries released from the leases of dead workers."""

    released: int
    #: of these: refused after `MAX_WORKER_CRASHES` crashes
    quarantined: int


class DeliveryRecipient(NamedTuple):
    """To whom a delivery went, and what kind of news it was."""

    user_id: str
    channel: str
    category: str


class Deliveries(Protocol):
    async def add(
        self, tx: Transaction, planned: Sequence[PlannedDelivery], skipped: Sequence[SkipRecord], now: datetime
    ) -> None: ...

    async def claim(
        self, tx: Transaction, batch_ids: Sequence[str], *, token: str, now: datetime, lease_until: datetime
    ) -> Sequence[ClaimedDelivery]:
        """Claim the pending deliveries of batches under a lease and return them with the data needed to send them."""
        ...

    async def reload(self, tx: Transaction, claimed: Sequence[ClaimedDelivery]) -> Sequence[ClaimedDelivery]:
        """Return claimed deliveries with the current data. Those deleted in the meantime are left out."""
        ...

    async def record(self, tx: Transaction, results: Sequence[AttemptResult], now: datetime) -> int:
        """Record outcomes and attempts. Rows with another lease token are left unchanged. Returns how many applied."""
        ...

    async def has_leased(self, tx: Transaction, notification_id: str) -> bool:
        """Return whether deliveries of a notification are claimed, without counting them."""
        ...

    async def has_due(self, tx: Transaction, now: datetime) -> bool:
        """Return whether `batch_due` would find deliveries."""
        ...

    async def advance_retries(self, tx: Transaction, now: datetime) -> int:
        """Make retries due now that were recorded by a clock more than `MAX_CLOCK_DIFFERENCE` ahead. Returns how many.

        They would otherwise wait until the time has come that the clock showed.
        """
        ...

    async def batch_due(
        self, tx: Transaction, now: datetime, batch_size: int, *, max_batches: int = 1
    ) -> Sequence[Task]:
        """Group due deliveries without a batch into batches of one lane each. Returns a task for each batch.

        batch_size: deliveries per batch. max_batches: takes at most as many deliveries as fill these.
        """
        ...

    async def release_by_token(self, tx: Transaction, tokens: Sequence[str], now: datetime) -> int:
        """Release the deliveries that are still claimed under these lease tokens. Returns how many."""
        ...

    async def reap_expired_leases(self, tx: Transaction, now: datetime) -> LeaseRelease:
        """Release deliveries whose lease has expired, and count a crash for each; see `release_all_leases`."""
        ...

    async def release_all_leases(self, tx: Transaction, now: datetime) -> LeaseRelease:
        """Release every claimed delivery, at a start when no other process can be sending.

        The worker died while it sent them, so each counts as a crash and is sent in isolation from now on. After
        `MAX_WORKER_CRASHES` crashes a delivery is refused instead, which makes it a dead letter.
        """
        ...

    async def list_pending_batches(
        self,
        tx: Transaction,
        *,
        after: str | None,
        limit: int,
        lane: Lane | None = None,
        created_before: datetime | None = None,
    ) -> Sequence[Task]:
        """Return a task for each batch with pending deliveries, in id order. A queue reset re-enqueues them.

        lane: only batches of this lane. created_before: only batches created before an instant, by the time in the id.
        """
        ...

    async def list_with_attempts(
        self,
        tx: Transaction,
        notification_id: str,
        *,
        user_id: str | None,
        after: str | None,
        limit: int,
        failed_only: bool = False,
    ) -> Sequence[DeliveryTrace]:
        """Return deliveries with their attempts, in id order. failed_only: only those that ended without success."""
        ...

    async def find_recipient(self, tx: Transaction, notification_id: str, delivery_id: str) -> DeliveryRecipient | None:
        """Return to whom a delivery of a notification went, None if it is not stored (any more)."""
        ...

    async def list_skips(
        self, tx: Transaction, notification_id: str, *, user_id: str | None, after: str | None, limit: int
    ) -> Sequence[SkipTrace]: ...


class Outbox(Protocol):
    async def add(self, tx: Transaction, tasks: Sequence[Task]) -> None: ...
    async def list_due(
        self, tx: Transaction, now: datetime, limit: int, *, created_before: datetime | None = None
    ) -> Sequence[Task]:
        """Return due tasks, the longest due first.

        created_before: only tasks created before an instant, by the time in the id.
        """
        ...

    async def remove(self, tx: Transaction, task_ids: Sequence[str]) -> None: ...
    async def next_due_at(self, tx: Transaction) -> datetime | None: ...
    async def count_delayed(self, tx: Transaction, now: datetime, *, limit: int) -> dict[Lane, int]:
        """Return how many tasks per lane are due later. At most `limit` rows are examined."""
        ...


class RegistrationResult(StrEnum):
    """The result of registering a push subscription."""

    NEW = "new"
    KNOWN = "known"
    #: it belonged to another user, and the browser proved that it is the same browser
    MOVED = "moved"
    #: it belongs to another user, and the browser gave no proof
    REFUSED = "refused"
    #: the push service has ended this endpoint: the browser must unsubscribe and subscribe anew
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class TargetVersion:
    """A push subscription as a worker tried it."""

    id: str
    version: int


class ContactPoints(Protocol):
    """Addresses of users on all channels but Web Push."""

    async def add(self, tx: Transaction, points: Sequence[ContactPoint], now: datetime) -> Sequence[bool]:
        """Store contact points. Returns, in the order of their identity, whether each is new."""
        ...

    async def list_by_user(self, tx: Transaction, user_id: str) -> Sequence[ContactPoint]: ...
    # returns the user's own contact point, locked until this transaction ends
    async def get_locked(self, tx: Transaction, user_id: str, contact_point_id: str) -> ContactPoint | None: ...
    # stores state, version, attributes and secrets; the address does not change
    async def update(self, tx: Transaction, point: ContactPoint, now: datetime) -> None: ...
    async def remove(self, tx: Transaction, user_id: str, contact_point_id: str) -> bool:
        """Delete the user's own contact point. Returns False if this user has none with that id."""
        ...

    async def sync_profiles(self, tx: Transaction, people: Sequence[User], now: datetime) -> None:
        """Store the e-mail addresses and phone numbers of users, and delete those that they had before."""
        ...

    async def list_missing_profiles(self, tx: Transaction, *, limit: int) -> Sequence[User]:
        """Return users whose addresses an older version stored in the profile only."""
        ...

    async def set_state_of_versions(
        self, tx: Transaction, tried: Sequence[TargetVersion], state: ContactPointState, now: datetime
    ) -> None:
        """Set the state of contact points, unless they were registered again since they were tried."""
        ...

    async def mark_gone(self, tx: Transaction, channel: str, address: str, now: datetime) -> int:
        """Mark the active contact points with an address as gone, whoever has it. Returns how many."""
        ...

    async def find_users(self, tx: Transaction, channel: str, address: str) -> Collection[str]:
        """Return the ids of the users with an address."""
        ...


class Subscriptions(Protocol):
    async def register(
        self, tx: Transaction, subscription: PushSubscription, *, replaces: str | None, now: datetime
    ) -> tuple[RegistrationResult, PushSubscription]:
        """Store a subscription, unique by endpoint, in a new version.

        replaces: the user's own old endpoint. The new one takes its place under the same id, so that deliveries that
        wait for the old one are sent to the new one. An endpoint in one of `ENDED_STATES` is not stored again.
        """
        ...

    async def find_by_endpoint(self, tx: Transaction, endpoint: str) -> PushSubscription | None: ...
    async def renew(
        self, tx: Transaction, old: PushSubscription, successor: PushSubscription, now: datetime
    ) -> PushSubscription | None:
        """Replace `old`, as read by `find_by_endpoint`, by the endpoint and keys of `successor`, under the same id.

        The caller has verified that both belong to the same browser. Returns None, with nothing changed, if `old` was
        changed or removed since, or if the new endpoint belongs to another user or browser or has ended.
        """
        ...

    async def list_by_user(self, tx: Transaction, user_id: str) -> Sequence[PushSubscription]: ...
    async def remove(self, tx: Transaction, user_id: str, endpoint: str) -> bool:
        """Delete the user's own subscription. Returns False if this user has none with that endpoint."""
        ...

    async def set_state(self, tx: Transaction, ids: Sequence[str], state: SubscriptionState, now: datetime) -> int: ...
    async def set_state_of_versions(
        self, tx: Transaction, tried: Sequence[TargetVersion], state: SubscriptionState, now: datetime
    ) -> int:
        """Set the state of subscriptions that were not registered again since they were tried. Returns how many."""
        ...

    # returns id → version of the subscriptions that exist, and lock them until this transaction ends
    async def lock_versions(self, tx: Transaction, ids: Collection[str]) -> Mapping[str, int]: ...

    # deletes subscriptions that were marked gone before an instant, and returns how many
    async def purge(self, tx: Transaction, gone_before: datetime) -> int: ...

    async def record_results(
        self, tx: Transaction, changes: Sequence[TargetChange], now: datetime
    ) -> Sequence[tuple[str, str]]:
        """Store when devices were reached, and count refusals in a row.

        Suspends active devices with `MAX_TARGET_REFUSALS` of them. Returns push host and reason of each of these.
        """
        ...

    async def list_unseen(self, tx: Transaction, *, before: datetime, limit: int) -> Sequence[str]:
        """Return the ids of active subscriptions that were neither seen nor reached since an instant."""
        ...

    # deletes subscriptions that were suspended or marked rebind before an instant, and returns how many
    async def purge_unused(self, tx: Transaction, *, before: datetime) -> int: ...

    async def count_gone(self, tx: Transaction, *, since: datetime) -> tuple[int, int]:
        """Return how many were marked gone since an instant, and the total number of subscriptions."""
        ...


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as stored. The secret itself is shown once and never stored."""

    id: str
    #: SHA-256 of the whole key, hex
    digest: str
    #: first characters, by which people recognise the key
    prefix: str
    label: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None = None


class ApiKeys(Protocol):
    async def add(self, tx: Transaction, key: ApiKey) -> None: ...
    async def find(self, tx: Transaction, digest: str) -> ApiKey | None: ...
    async def list_all(self, tx: Transaction) -> Sequence[ApiKey]: ...
    async def revoke(self, tx: Transaction, key_id: str, now: datetime) -> bool: ...


class Store(Protocol):
    """All repositories, and the transactions they run in."""

    @property
    def notifications(self) -> Notifications: ...
    @property
    def subjects(self) -> Subjects: ...
    @property
    def audiences(self) -> Audiences: ...
    @property
    def saved_audiences(self) -> SavedAudiences: ...
    @property
    def topics(self) -> Topics: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def users(self) -> Users: ...
    @property
    def contact_points(self) -> ContactPoints: ...
    @property
    def contact_health(self) -> ContactHealthStore: ...
    @property
    def subscriptions(self) -> Subscriptions: ...
    @property
    def vapid_keys(self) -> VapidKeys: ...
    @property
    def api_keys(self) -> ApiKeys: ...
    @property
    def idempotency_keys(self) -> IdempotencyKeys: ...
    @property
    def personal_data(self) -> PersonalData: ...
    @property
    def user_schedules(self) -> UserSchedules: ...
    @property
    def user_rate_limits(self) -> UserRateLimits: ...
    @property
    def quotas(self) -> Quotas: ...
    @property
    def dead_letters(self) -> DeadLetters: ...
    @property
    def processes(self) -> Processes: ...
    @property
    def schedules(self) -> Schedules: ...
    @property
    def alerts(self) -> Alerts: ...
    @property
    def inbox(self) -> Inbox: ...
    @property
    def digests(self) -> Digests: ...
    @property
    def recurring(self) -> RecurringNotifications: ...
    @property
    def status_events(self) -> StatusEvents: ...
    @property
    def receipts(self) -> Receipts: ...
    @property
    def suppressions(self) -> Suppressions: ...
    @property
    def steps(self) -> Steps: ...
    @property
    def awaited_events(self) -> AwaitedEvents: ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction for writing. It commits at the end of the block and rolls back if the block raises."""
        ...

    async def run_unblocked(self, work: Callable[[Transaction], Awaitable[_T]]) -> _T:
        """Run `work` in a transaction for writing, and return its result. `work` may be repeated.

        If a lock that it needs is held by a suspended process, that process loses its transaction within a second.
        """
        ...

    async def terminate_stalled_sessions(self) -> int:
        """Roll back the transactions of suspended processes, so that their locks are free. Returns how many."""
        ...

    def read_snapshot(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a read-only transaction on a consistent snapshot."""
        ...

    def read_once(self) -> AbstractAsyncContextManager[Transaction]:
        """Like `read_snapshot`, for a single query. Needs fewer round trips; a second query may see a later state."""
        ...

    def savepoint(self, tx: Transaction) -> AbstractAsyncContextManager[None]:
        """Open a savepoint. If the block raises, its changes are rolled back and the transaction remains usable."""
        ...

    async def adopt(self, connection: object) -> Transaction:
        """Wrap the caller's own connection. The caller ends its transaction.

        Raises ValidationFailed for an unknown type of connection.
        """
        ...

    async def get_queue_instance_id(self, tx: Transaction) -> str | None:
        """Return the queue epoch stored in the database."""
        ...

    async def set_queue_instance_id(self, tx: Transaction, instance_id: str) -> None: ...

    async def ping(self) -> None:
        """Raise BackendError if the database does not answer."""
        ...

    @property
    def statement_count(self) -> int:
        """Number of SQL statements executed since the start, for `tidings bench`."""
        ...

    async def close(self) -> None: ...
