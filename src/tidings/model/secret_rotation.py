"""Rotation of a contact point's secrets: for a while the new and the old ones are used. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec import structs

from tidings.model.contact_point import ContactPoint

#: attribute of a contact point: for each of its secrets the instant at which it ends, None = it does not end
ENDS = "secretEnds"
#: secrets in use at the same time; a further rotation drops the oldest
MAX_SECRETS = 5


def list_active_secrets(point: ContactPoint, now: datetime) -> Sequence[str]:
    """Return the secrets in use, the newest first."""
    return [secret for secret, end in zip(point.secrets, _read_ends(point), strict=True) if end is None or end > now]


def rotate_secrets(point: ContactPoint, new: Sequence[str], now: datetime, overlap: timedelta) -> ContactPoint:
    """Return the contact point with new secrets. Those in use remain in use for `overlap`, unless they end earlier."""
    end = now + overlap
    kept = [
        (secret, end if old_end is None else min(end, old_end))
        for secret, old_end in zip(point.secrets, _read_ends(point), strict=True)
        if old_end is None or old_end > now
    ]
    kept = [(secret, old_end) for secret, old_end in kept if old_end > now][: MAX_SECRETS - len(new)]
    ends = [*(None for _ in new), *(old_end.astimezone(UTC).isoformat() for _, old_end in kept)]
    return structs.replace(
        point,
        secrets=(*new, *(secret for secret, _ in kept)),
        attributes={**point.attributes, ENDS: ends},
    )


def _read_ends(point: ContactPoint) -> Sequence[datetime | None]:
    stored = point.attributes.get(ENDS)
    ends = (
        [datetime.fromisoformat(end) if isinstance(end, str) else None for end in stored or ()]
        if isinstance(stored, list)
        else []
    )
    # a contact point that was never rotated has no ends
    return [*ends, *(None for _ in point.secrets)][: len(point.secrets)]
