"""Somebody who can be notified."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class User:
    """A user of the host product, under the host product's own id."""

    id: str
    email: str | None = None
    phone: str | None = None
    #: BCP 47 tag, e.g. `de-CH`
    locale: str = "en"
    #: IANA name, e.g. `Europe/Berlin`
    timezone: str = "UTC"
    city: str | None = None
    #: anything else the host wants to keep, JSON values only
    attributes: Mapping[str, object] = field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """A user's own choice for one category on one channel. Without one, the category's default holds."""

    category: str
    channel: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class Address:
    """Where somebody can be reached, as a user has it."""

    kind: Literal["email", "phone"]
    value: str
