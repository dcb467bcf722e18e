"""Saved audiences, and the estimates and statistics of audiences, over HTTP and on the command line.

An estimate plans pages as the fan-out does, with the same rules, and adds the suppressions that are checked before
sending. It reads a bounded number of users; a cursor continues it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from tidings.errors import FieldError, NotFound, ValidationFailed
from tidings.flow.accept.audience_checks import reject_unknown_arguments
from tidings.flow.accept.saved_audiences import expand_audience, list_required_users, load_saved
from tidings.flow.accept.validation import unknown_users_error
from tidings.flow.catalog import Catalog
from tidings.flow.fanout.audience_estimate import (
    AudienceEstimate,
    AudienceStatistics,
    ReachCounter,
    StatisticsCounter,
    build_probe,
)
from tidings.flow.fanout.delivery_ids import NO_IDS
from tidings.flow.fanout.dry_run import MAX_EXAMINED_USERS
from tidings.flow.fanout.fan_out import FanOut
from tidings.flow.fanout.planner import Plan
from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.flow.plan.rules.suppression import check_suppression
from tidings.model.audience import AUDIENCE_NAME, Audience
from tidings.model.delivery import PlannedDelivery, Recipient
from tidings.model.notification import Notification
from tidings.model.saved_audience import SavedAudience, expand_saved
from tidings.model.suppression import Suppression
from tidings.ports.channel import Channel, HasSenders
from tidings.ports.clock import Clock
from tidings.ports.store import Store, Transaction

#: the category of an estimate that names none
DEFAULT_CATEGORY = "MESSAGE"


class AudienceService:
    """Stores audiences under names, and estimates audiences. One per process."""

    def __init__(
        self, store: Store, clock: Clock, catalog: Catalog, fan_out: FanOut, channels: Mapping[str, Channel]
    ) -> None:
        """channels: the configured channels by name."""
        self._store = store
        self._clock = clock
        self._catalog = catalog
        self._fan_out = fan_out
        self._senders = {name: channel.senders for name, channel in channels.items() if isinstance(channel, HasSenders)}

    async def get(self, tx: Transaction, name: str) -> SavedAudience:
        """Return a saved audience. Raises NotFound."""
        found = await self._store.saved_audiences.get_many(tx, [name])
        if name not in found:
            raise NotFound(f"No saved audience {name!r}. GET /api/audiences lists them.", code="unknown_audience")
        return found[name]

    async def put(self, tx: Transaction, saved: SavedAudience) -> tuple[SavedAudience, bool]:
        """Create or replace a saved audience. Returns it, and whether it is new.

        Raises ValidationFailed for an invalid name or definition, and for a definition that leads back to its own name.
        """
        if not AUDIENCE_NAME.fullmatch(saved.name):
            raise ValidationFailed.for_field(
                "name", "must be 1 to 64 letters, digits or . _ - and begin with a letter or digit"
            )
        # two changes at once could otherwise make a cycle together
        await self._store.saved_audiences.lock(tx)
        known = await load_saved(self._store, tx, [saved.definition])
        expanded = expand_saved(saved.definition, known, "definition", name=saved.name)
        now = self._clock.now()
        await self._check(tx, saved.definition, expanded, "definition", now)
        is_new = await self._store.saved_audiences.put(tx, saved, now)
        return await self.get(tx, saved.name), is_new

    async def delete(self, tx: Transaction, name: str) -> None:
        """Delete a saved audience. What was accepted with it is not changed. Raises NotFound."""
        await self._store.saved_audiences.lock(tx)
        if not await self._store.saved_audiences.delete(tx, name):
            raise NotFound(f"No saved audience {name!r}. GET /api/audiences lists them.", code="unknown_audience")

    async def check(self, tx: Transaction, audience: Audience) -> None:
        """Raise ValidationFailed, naming the part, if no notification to an audience would be accepted now.

        It may have no users.
        """
        expanded = await expand_audience(self._store, tx, audience)
        await self._check(tx, audience, expanded, "audience", self._clock.now())

    async def estimate(
        self,
        tx: Transaction,
        audience: Audience,
        *,
        category: str = DEFAULT_CATEGORY,
        channels: Sequence[str] = (),
        after: str | None = None,
        limit: int = MAX_EXAMINED_USERS,
    ) -> AudienceEstimate:
        """Estimate whom a notification to an audience would reach now.

        channels: none = every configured one. after: the cursor of the previous part. limit: maximum number of users
        to examine. Raises ValidationFailed as the acceptance of a notification does.
        """
        now = self._clock.now()
        probe = await self._build_probe(tx, audience, category, channels, now)
        context = PlanContext(
            probe, self._catalog.get_category(category), self._catalog.channels, now, get_senders=self._get_senders
        )
        size = await self._store.audiences.estimate_size(tx, probe.audience) if after is None else None
        counter = ReachCounter(probe.channels or self._catalog.channels)
        cursor = None
        async for page, following in self._iter_pages(tx, probe, after, limit):
            cursor = following
            plan = self._fan_out.build_plan(probe, page, now, NO_IDS)
            suppressed = await self._find_suppressed(tx, plan, context)
            counter.add_page(page, plan, suppressed)
        return counter.result(size=size, cursor=cursor)

    async def compute_statistics(
        self,
        tx: Transaction,
        audience: Audience,
        *,
        days: int,
        after: str | None = None,
        limit: int = MAX_EXAMINED_USERS,
    ) -> AudienceStatistics:
        """Return on which channels the users of an audience can be contacted, and on which they took notice.

        days: period of the engagement. after, limit: as in `estimate`.
        """
        now = self._clock.now()
        probe = await self._build_probe(tx, audience, DEFAULT_CATEGORY, (), now)
        size = await self._store.audiences.estimate_size(tx, probe.audience) if after is None else None
        counter = StatisticsCounter(
            self._catalog.channels, lambda name: self._catalog.get_traits(name).needs_contact_point
        )
        cursor = None
        async for page, following in self._iter_pages(tx, probe, after, limit):
            cursor = following
            user_ids = [recipient.user_id for recipient in page]
            engagement = await self._store.audiences.load_engagement(tx, user_ids, now - timedelta(days=days))
            counter.add_page(page, engagement)
        return counter.result(size=size, cursor=cursor)

    async def _iter_pages(
        self, tx: Transaction, probe: Notification, after: str | None, limit: int
    ) -> AsyncIterator[tuple[Sequence[Recipient], str | None]]:
        """Yield pages of at most `limit` users in total, each with the cursor after it, None after the last user."""
        remaining = limit
        while remaining > 0:
            loaded, has_more = await self._fan_out.load_page(tx, probe, after)
            page = loaded[:remaining]
            remaining -= len(page)
            is_last = not has_more and len(page) == len(loaded)
            after = page[-1].user_id if page else None
            yield page, None if is_last else after
            if is_last:
                return

    async def _build_probe(
        self, tx: Transaction, audience: Audience, category: str, channels: Sequence[str], now: datetime
    ) -> Notification:
        errors = [
            FieldError(f"channels[{index}]", f"unknown channel {name!r}; known are {known}")
            for index, name in enumerate(channels)
            if name not in self._catalog.known_channels
            for known in [", ".join(self._catalog.known_channels)]
        ]
        if category not in self._catalog.categories:
            known = ", ".join(sorted(self._catalog.categories))
            errors.append(FieldError("category", f"is not a known category; known are {known}"))
        if errors:
            raise ValidationFailed.from_errors(errors)
        expanded = await expand_audience(self._store, tx, audience)
        checked = await self._check(tx, audience, expanded, "audience", now)
        return replace(checked, category=category, channels=tuple(dict.fromkeys(channels)))

    async def _check(
        self, tx: Transaction, written: Audience, expanded: Audience, path: str, now: datetime
    ) -> Notification:
        """Return a notification to a checked and pinned audience. Raises ValidationFailed naming the field.

        written: as the caller wrote it. expanded: with the definitions of its saved audiences.
        """
        self._catalog.check_audience(expanded, path)
        pinned = self._catalog.pin_audience(expanded, now)
        if unknown := await self._store.users.missing_ids(tx, list_required_users(written, expanded)):
            raise unknown_users_error(unknown)
        probe = build_probe(pinned, DEFAULT_CATEGORY, (), now)
        [result] = await reject_unknown_arguments(tx, [probe], self._catalog.audiences)
        if isinstance(result, ValidationFailed):
            raise ValidationFailed.from_errors(
                [
                    FieldError(f"{path}{error.field.removeprefix('audience')}", error.message)
                    for error in result.field_errors
                ]
            )
        return result

    async def _find_suppressed(self, tx: Transaction, plan: Plan, context: PlanContext) -> set[str]:
        """Return the contact points to which the preflight check would send nothing."""
        by_target = await self._store.suppressions.list_of_targets(
            tx, {delivery.target_id for delivery in plan.planned}
        )
        return {
            delivery.target_id
            for delivery in plan.planned
            if (found := by_target.get(delivery.target_id))
            and check_suppression(_to_candidate(delivery, found), context) is not None
        }

    def _get_senders(self, channel: str) -> Sequence[str]:
        return self._senders.get(channel, ())


def _to_candidate(delivery: PlannedDelivery, suppressions: Sequence[Suppression]) -> Candidate:
    return Candidate(
        delivery.user_id, delivery.channel, preferences=(), has_contact_point=True, suppressions=suppressions
    )
