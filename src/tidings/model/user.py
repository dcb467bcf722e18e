"""Users and their contact addresses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal


def caller_of(user_id: str) -> str:
    """Return the caller name under which the idempotency keys of a user's own requests are stored."""
    return f"user:{user_id}"


@dataclass(frozen=True, slots=True)
class User:
    """A user of the host product, with the id of the host product."""

    id: str
    email: str | None = None
    phone: str | None = None
    #: BCP 47 tag, e.g. `de-CH`
    locale: str = "en"
    #: IANA name, e.g. `Europe/Berlin`
    timezone: str = "UTC"
    city: str | None = None
    #: further data of the host product, JSON values only
    attributes: Mapping[str, object] = field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    #: ISO 3166-1 alpha-2, e.g. `CH`
    country: str | None = None
    #: degrees north and east (WGS 84): both, or neither
    latitude: float | None = None
    longitude: float | None = None


@dataclass(frozen=True, slots=True)
class ContactAddress:
    """An e-mail address or phone number of a user."""

    kind: Literal["email", "phone"]
    value: str
