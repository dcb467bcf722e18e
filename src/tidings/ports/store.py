"""The store: the truth. Small protocols, one per kind of row; every call works inside a transaction given to it.

`begin()` is for writing, `read()` for reading a consistent snapshot, `join()` for the caller's own transaction.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from tidings.model.audience import Audience
from tidings.model.delivery import Attempted, Due, Planned, Recipient, Skipped
from tidings.model.notification import Counts, Notification, NotificationState
from tidings.model.priority import Lane
from tidings.model.subscription import PushSubscription, SubscriptionState, VapidKey
from tidings.model.task import Task
from tidings.model.template import Category
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.model.user import Address, Preference, User
from tidings.ports.operations import DeadLetters, Processes, Schedules, UserLimits
from tidings.ports.transaction import Transaction as Transaction  # part of this protocol


class Notifications(Protocol):
    async def add(self, tx: Transaction, notification: Notification) -> None: ...
    async def add_many(self, tx: Transaction, notifications: Sequence[Notification]) -> None: ...
    async def get(self, tx: Transaction, notification_id: str) -> Notification | None: ...
    async def get_many(self, tx: Transaction, notification_ids: Collection[str]) -> Sequence[Notification]:
        """Return those that exist, in no order."""
        ...

    async def recent(
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
        """Newest first; `before` is the id the last page ended with."""
        ...

    async def advance(self, tx: Transaction, before: Notification, after: Notification) -> bool:
        """Compare-and-set of state, cursor and counts; False if somebody else moved or cancelled it."""
        ...

    async def advance_many(self, tx: Transaction, moves: Sequence[tuple[Notification, Notification]]) -> set[str]:
        """Do `advance` for many pairs of (before, after) in one statement. Returns the ids of those that moved."""
        ...

    async def cancel(self, tx: Transaction, notification_id: str) -> bool:
        """Compare-and-set to cancelled; False if it was cancelled already."""
        ...

    async def cancelled(self, tx: Transaction, notification_ids: Collection[str]) -> set[str]:
        """Return those of the notifications that are cancelled."""
        ...

    async def counts(self, tx: Transaction, notification_id: str) -> Counts: ...
    async def unplanned(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[Notification]:
        """Accepted or half fanned-out ones, oldest first: what a lost queue must be told again."""
        ...


class Audiences(Protocol):
    async def page(
        self, tx: Transaction, audience: Audience, *, category: str, after: str | None, limit: int
    ) -> Sequence[Recipient]:
        """Return the next users of an audience in id order, with their choices for the category and their devices."""
        ...

    async def named(self, tx: Transaction, wanted: Sequence[tuple[str, str]]) -> Sequence[Recipient | None]:
        """Return, in order, the recipient of each (user id, category) in one statement; None for an unknown user."""
        ...

    async def among(self, tx: Transaction, audience: Audience, user_ids: Collection[str]) -> set[str]:
        """Return those of `user_ids` that are in the audience now."""
        ...

    async def size(self, tx: Transaction, audience: Audience) -> int:
        """Count the audience (for estimates, never on the way of a send)."""
        ...


#: workers that may die while they have a delivery, before it is quarantined (facts: reliability, "poison message")
MAX_CRASHES = 3


@dataclass(frozen=True, slots=True)
class Released:
    """What came of taking claimed rows back from dead workers."""

    given_back: int
    #: given up as poison
    quarantined: int


class Deliveries(Protocol):
    async def add(
        self, tx: Transaction, planned: Sequence[Planned], skipped: Sequence[Skipped], now: datetime
    ) -> None: ...

    async def claim(
        self, tx: Transaction, batch_ids: Sequence[str], *, token: str, now: datetime, lease_until: datetime
    ) -> Sequence[Due]:
        """Take the pending rows of the batches under a lease and return what is needed to send them."""
        ...

    async def record(self, tx: Transaction, attempted: Sequence[Attempted], now: datetime) -> int:
        """Write outcomes and attempts; rows whose lease token differs are left alone. Returns how many applied."""
        ...

    async def any_sending(self, tx: Transaction, notification_id: str) -> bool:
        """Whether a worker has claimed deliveries of a notification, without counting."""
        ...

    async def any_due(self, tx: Transaction, now: datetime) -> bool:
        """Whether `wake_due` would find something."""
        ...

    async def wake_due(self, tx: Transaction, now: datetime, limit: int) -> Sequence[Task]:
        """Group pending rows without a batch that have come due into batches."""
        ...

    async def give_back(self, tx: Transaction, tokens: Sequence[str], now: datetime) -> int:
        """Give back the rows still claimed under these lease tokens. Returns how many."""
        ...

    async def release_expired(self, tx: Transaction, now: datetime) -> "Released":
        """Give back rows whose lease has run out, and count a crash for each; see `release_all`."""
        ...

    async def release_all(self, tx: Transaction, now: datetime) -> "Released":
        """Give back every claimed row: for a start when no other process can be sending.

        Its worker died with it, so it is sent alone from now on, and after `MAX_CRASHES` deaths not at all: it is
        refused, which makes it a dead letter.
        """
        ...

    async def waiting_batches(
        self,
        tx: Transaction,
        *,
        after: str | None,
        limit: int,
        lane: Lane | None = None,
        before: datetime | None = None,
    ) -> Sequence[Task]:
        """Batches with pending rows in id order: what a lost queue must be told again.

        lane: only of this lane; before: only batches made before an instant (the time in their ids).
        """
        ...

    async def trace(
        self, tx: Transaction, notification_id: str, *, user_id: str | None, after: str | None, limit: int
    ) -> Sequence[DeliveryTrace]:
        """Deliveries with their attempts, in id order."""
        ...

    async def skips(
        self, tx: Transaction, notification_id: str, *, user_id: str | None, after: str | None, limit: int
    ) -> Sequence[SkipTrace]: ...


class Outbox(Protocol):
    async def add(self, tx: Transaction, tasks: Sequence[Task]) -> None: ...
    async def due(
        self, tx: Transaction, now: datetime, limit: int, *, made_before: datetime | None = None
    ) -> Sequence[Task]:
        """Return what is due, the longest due first. made_before: only what was made (by its id) before an instant."""
        ...

    async def remove(self, tx: Transaction, task_ids: Sequence[str]) -> None: ...
    async def next_due(self, tx: Transaction) -> datetime | None: ...
    async def delayed(self, tx: Transaction, now: datetime, *, most: int) -> dict[Lane, int]:
        """Return how many tasks per lane wait for a later time; at most `most` are looked at."""
        ...


class Users(Protocol):
    async def upsert(self, tx: Transaction, people: Sequence[User], now: datetime) -> Sequence[bool]:
        """Insert or replace. Returns, in order, whether each one is new."""
        ...

    async def get(self, tx: Transaction, user_id: str) -> User | None: ...
    async def page(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[User]: ...
    async def erase(self, tx: Transaction, user_id: str) -> bool:
        """Remove the user and everything kept about them. False if unknown."""
        ...

    async def unknown(self, tx: Transaction, user_ids: Sequence[str]) -> Sequence[str]:
        """Return those ids that no user has, in the order given."""
        ...

    async def holders(self, tx: Transaction, addresses: Collection[Address]) -> Mapping[Address, tuple[str, int]]:
        """Return of each address that somebody has the first user's id, and how many users have it."""
        ...

    async def preferences(self, tx: Transaction, user_id: str) -> Sequence[Preference]: ...
    async def set_preferences(self, tx: Transaction, user_id: str, choices: Sequence[Preference]) -> None: ...


class Registration(StrEnum):
    """What came of registering a push subscription."""

    NEW = "new"
    KNOWN = "known"
    #: the browser belonged to another user before, and proved that it is the same browser
    MOVED = "moved"
    #: another user's, and no proof
    REFUSED = "refused"


class Subscriptions(Protocol):
    async def register(
        self, tx: Transaction, subscription: PushSubscription, *, replaces: str | None, now: datetime
    ) -> tuple[Registration, PushSubscription]:
        """Store a subscription, unique by endpoint. `replaces` is the user's own old endpoint, removed with it."""
        ...

    async def of_user(self, tx: Transaction, user_id: str) -> Sequence[PushSubscription]: ...
    async def remove(self, tx: Transaction, user_id: str, endpoint: str) -> bool:
        """Delete the user's own subscription. False if this user has none with that endpoint."""
        ...

    async def mark(self, tx: Transaction, ids: Sequence[str], state: SubscriptionState, now: datetime) -> int: ...
    async def purge(self, tx: Transaction, gone_before: datetime) -> int:
        """Erase those marked gone before an instant."""
        ...

    async def count_gone(self, tx: Transaction, *, since: datetime) -> tuple[int, int]:
        """Return how many were marked gone since an instant, and how many there are in all."""
        ...


class VapidKeys(Protocol):
    async def add(self, tx: Transaction, key: VapidKey) -> None: ...
    async def all(self, tx: Transaction) -> Sequence[VapidKey]:
        """Every key, newest first; the first that is not retired signs new subscriptions."""
        ...

    async def in_use(self, tx: Transaction) -> Mapping[str, int]:
        """Return how many subscriptions that are not gone were made with each key."""
        ...

    async def retire(self, tx: Transaction, key_id: str, now: datetime) -> bool:
        """Mark a key as no longer needed. False if it is unknown or retired already."""
        ...


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as stored: the secret itself is shown once and never kept."""

    id: str
    #: SHA-256 of the whole key, hex
    digest: str
    #: first characters, for people to recognise it
    prefix: str
    label: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None = None


class ApiKeys(Protocol):
    async def add(self, tx: Transaction, key: ApiKey) -> None: ...
    async def find(self, tx: Transaction, digest: str) -> ApiKey | None: ...
    async def all(self, tx: Transaction) -> Sequence[ApiKey]: ...
    async def revoke(self, tx: Transaction, key_id: str, now: datetime) -> bool: ...


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """What was answered the first time an idempotency key was used."""

    request_digest: str
    #: None while the first request is still running
    status: int | None
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request that came with an idempotency key."""

    caller: str
    key: str
    request_digest: str


class IdempotencyKeys(Protocol):
    async def reserve_many(
        self, tx: Transaction, requests: Sequence[KeyedRequest], now: datetime
    ) -> Sequence[FirstAnswer | None]:
        """Do `reserve` for many requests with different keys, in few statements, in the order given."""
        ...

    async def answer_many(self, tx: Transaction, answers: Sequence[tuple[KeyedRequest, int, bytes]]) -> None:
        """Do `answer` for many: (request, status, body)."""
        ...

    async def reserve(
        self, tx: Transaction, *, caller: str, key: str, request_digest: str, now: datetime
    ) -> FirstAnswer | None:
        """Claim the key for this request; if it is taken, return what the first use left."""
        ...

    async def answer(self, tx: Transaction, *, caller: str, key: str, status: int, body: bytes) -> None: ...
    async def purge(self, tx: Transaction, before: datetime) -> int: ...


class Store(Protocol):
    """Everything that lasts."""

    @property
    def notifications(self) -> Notifications: ...
    @property
    def audiences(self) -> Audiences: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def users(self) -> Users: ...
    @property
    def subscriptions(self) -> Subscriptions: ...
    @property
    def vapid_keys(self) -> VapidKeys: ...
    @property
    def api_keys(self) -> ApiKeys: ...
    @property
    def idempotency(self) -> IdempotencyKeys: ...
    @property
    def limits(self) -> UserLimits: ...
    @property
    def dead_letters(self) -> DeadLetters: ...
    @property
    def processes(self) -> Processes: ...
    @property
    def schedules(self) -> Schedules: ...

    def begin(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a writing transaction; commits at the end of the block, rolls back when it raises."""
        ...

    def read(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a reading transaction."""
        ...

    def look(self) -> AbstractAsyncContextManager[Transaction]:
        """Like `read`, for a single question: a second one may see a later state. Costs fewer trips to a server."""
        ...

    def savepoint(self, tx: Transaction) -> AbstractAsyncContextManager[None]:
        """Open a savepoint: what fails inside is undone, the transaction around it lives on."""
        ...

    async def join(self, connection: object) -> Transaction:
        """Wrap the caller's own connection, whose transaction the caller ends. Raises Invalid for an unknown type."""
        ...

    async def sync_categories(self, tx: Transaction, declared: Sequence[Category]) -> None:
        """Store what categories the packs declare."""
        ...

    async def epoch(self, tx: Transaction) -> str | None: ...
    async def set_epoch(self, tx: Transaction, epoch: str) -> None: ...

    async def ping(self) -> None:
        """Raise BackendError if the database does not answer."""
        ...

    @property
    def statements(self) -> int:
        """How many SQL statements were executed since the start (for `tidings bench`)."""
        ...

    async def close(self) -> None: ...
