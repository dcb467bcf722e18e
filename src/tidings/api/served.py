"""What the API needs of the running system, as protocols: `tidings.runtime` provides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from tidings.model.audience import Audience
from tidings.model.delivery import SkipReason
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.model.template import Category, Template
from tidings.model.user import Preference
from tidings.ports.clock import Clock
from tidings.ports.pack import AudienceKind, Pack
from tidings.ports.queue import Queue
from tidings.ports.store import Store, Transaction
from tidings.settings import Settings


class Estimate(Protocol):
    """What a notification would do, without doing it (`dryRun`)."""

    @property
    def recipients(self) -> int: ...
    @property
    def examined(self) -> int: ...
    @property
    def by_channel(self) -> Mapping[str, int]: ...
    @property
    def skipped(self) -> Mapping[SkipReason, int]: ...
    @property
    def sample(self) -> Sequence[str]: ...


class Flow(Protocol):
    """The pipeline, as far as the API drives it."""

    @property
    def attended(self) -> bool:
        """Whether a worker of this process takes from the queue."""
        ...

    @property
    def last_round(self) -> datetime | None:
        """When this process's worker last went round; None if it has none."""
        ...

    async def accept(self, tx: Transaction, request: NotifyRequest) -> Notification: ...
    async def preview(self, tx: Transaction, request: NotifyRequest) -> Estimate: ...
    async def cancel(self, notification_id: str) -> None:
        """Cancel in a transaction of its own. Raises NotFound, or Conflict when everything has been sent."""
        ...


class Words(Protocol):
    """Everything the packs declare."""

    @property
    def categories(self) -> Mapping[str, Category]: ...
    @property
    def templates(self) -> Mapping[str, Template]: ...
    @property
    def audiences(self) -> Mapping[str, AudienceKind]: ...
    @property
    def channels(self) -> Sequence[str]:
        """Those that are set up."""
        ...

    @property
    def known_channels(self) -> Sequence[str]:
        """Those that a preference may name, set up or not."""
        ...

    def check_audience(self, audience: Audience) -> None: ...


class PushKeys(Protocol):
    """The Web Push channel, as far as browsers register with it."""

    def public_key(self) -> tuple[str, str]:
        """Return (public key as base64url, key id) for `pushManager.subscribe`."""
        ...

    def knows(self, key_id: str) -> bool:
        """Say whether a key is one that this server still signs with."""
        ...

    def register(self, body: object) -> tuple[str, bytes, bytes]:
        """Return (endpoint, p256dh, auth) of a `PushSubscription.toJSON()`. Raises Invalid naming the field."""
        ...


class Choices(Protocol):
    """What users chose, remembered for a while and forgotten at every change."""

    async def of(self, user_id: str) -> Sequence[Preference] | None:
        """Return what a user chose, None for an unknown user."""
        ...

    def changing(self, user_id: str) -> AbstractAsyncContextManager[Transaction]:
        """Open a writing transaction that changes a user's choices or erases the user."""
        ...


class Processed(Protocol):
    """What a run of the schedule found."""

    @property
    def tasks(self) -> int:
        """Accepted work that was handed to the queue."""
        ...

    @property
    def batches(self) -> int:
        """Retries and delays that came due."""
        ...

    @property
    def redriven(self) -> int:
        """What the queue had lost."""
        ...


class Served(Protocol):
    """The running system."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def store(self) -> Store: ...
    @property
    def queue(self) -> Queue: ...
    @property
    def pipeline(self) -> Flow: ...
    @property
    def packs(self) -> Sequence[Pack]: ...
    @property
    def catalog(self) -> Words: ...
    @property
    def push(self) -> PushKeys: ...
    @property
    def choices(self) -> Choices: ...
    async def process(self) -> Processed:
        """Pick up everything that is due now, as the schedule does (MISSION M22). Raises BackendError."""
        ...

    async def schema_fault(self) -> str | None:
        """Say what is wrong with the database's schema for this program, None = nothing. Raises BackendError."""
        ...
