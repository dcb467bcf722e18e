"""Derives from outcomes the failures of contact points in a row, and builds the notice to the owner. Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from msgspec import structs

from tidings.flow.catalog import Catalog
from tidings.model.audience import users
from tidings.model.contact_health import ContactResult, DisabledContactPoint
from tidings.model.delivery import AttemptResult
from tidings.model.outcome import Accepted, InvalidTarget, PermanentFailure, RetryLater
from tidings.model.request import NotifyRequest

#: template of the core pack
NOTICE_TEMPLATE = "CONTACT_POINT_DISABLED"


def derive_contact_results(
    results: Sequence[AttemptResult], disable_after: Callable[[str], timedelta | None]
) -> Sequence[ContactResult]:
    """Return what attempts say of the contact points that their channel may disable, one result per contact point.

    disable_after: channel → after how long of failures only its contact points are disabled, None = never. Waits that
    spend no attempt, and failures whose cause is on this server, say nothing.
    """
    found: dict[str, ContactResult] = {}
    limits = {channel: disable_after(channel) for channel in {result.channel for result in results}}
    relevant = [
        (result, limit)
        for result in results
        if (limit := limits[result.channel]) is not None
        or (isinstance(result.outcome, InvalidTarget) and result.outcome.action == "disable")
    ]
    for result, limit in sorted(relevant, key=lambda pair: pair[0].finished_at):
        if result.target_id is None or result.target_version is None:
            continue
        key = result.target_id
        before = found.get(key) or ContactResult(key, result.target_version, 0, disable_after=limit)
        match result.outcome:
            case Accepted() if limit is not None:
                found[key] = ContactResult(key, result.target_version, 0, is_reached=True, disable_after=limit)
            case InvalidTarget(action="disable", why=why):
                found[key] = structs.replace(_add_failure(before, result.finished_at, why), is_refusing=True)
            case RetryLater(counts_as_attempt=True, why=why) | PermanentFailure(operator_alert=False, why=why) if (
                limit is not None
            ):
                found[key] = _add_failure(before, result.finished_at, why)
    return [found[key] for key in sorted(found)]


def _add_failure(before: ContactResult, at: datetime, why: str) -> ContactResult:
    return structs.replace(
        before, failures=before.failures + 1, failing_since=before.failing_since or at, last_error=why
    )


def build_notice(disabled: DisabledContactPoint, catalog: Catalog, now: datetime) -> NotifyRequest:
    """Return the request that notifies the owner of a contact point, over the other channels, that it was disabled."""
    noun = catalog.get_traits(disabled.channel).contact_noun
    return NotifyRequest(
        NOTICE_TEMPLATE,
        users(disabled.user_id),
        {
            "contactPointId": disabled.id,
            "channel": disabled.channel,
            "name": f"{noun} {disabled.label}" if disabled.label else noun,
            "reason": "refused" if disabled.is_refusing else "failing",
            "days": max((now - disabled.failing_since).days, 0),
            "lastError": disabled.last_error,
        },
        channels=tuple(channel for channel in catalog.channels if channel != disabled.channel),
        source=f"contact-point:{disabled.id}",
    )
