"""What every product has: plain messages, and audiences of users by id, city or choice."""

from collections.abc import Mapping

from sqlalchemy import Select, exists, select

from tidings.model.priority import Priority
from tidings.model.template import Category, Template, Wording
from tidings.ports.pack import AudienceKind, Pack
from tidings.stores.json_list import json_list
from tidings.stores.schema import preferences, users


def _users(arguments: Mapping[str, object]) -> Select[str]:
    ids = arguments["userIds"]
    assert isinstance(ids, list), "checked at intake"
    return select(users.c.id).where(users.c.id.in_(json_list(ids)))


def _everyone(_arguments: Mapping[str, object]) -> Select[str]:
    return select(users.c.id)


def _city(arguments: Mapping[str, object]) -> Select[str]:
    return select(users.c.id).where(users.c.city == arguments["city"])


def _opted_in(arguments: Mapping[str, object]) -> Select[str]:
    # on any channel, yet once: the row of the first channel counts. DISTINCT would sort the rest of the set per page.
    first, other = preferences, preferences.alias()
    chosen = (first.c.category == arguments["category"], first.c.enabled.is_(True))
    earlier = exists().where(
        other.c.user_id == first.c.user_id,
        other.c.category == first.c.category,
        other.c.enabled.is_(True),
        other.c.channel < first.c.channel,
    )
    return select(first.c.user_id).where(*chosen, ~earlier)


def text(value: object, _locale: str, _timezone: str) -> str:
    """Return a text or a number as it is. Raises ValueError for anything else, and for what is blank."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError("title and body must be texts that are not blank")
    return str(value)


pack = Pack(
    name="core",
    categories=(Category("MESSAGE", "Messages"),),
    templates=(
        Template(
            code="MESSAGE",
            category="MESSAGE",
            priority=Priority.NORMAL,
            words={"en": Wording("{{ title | text }}", "{{ body | text }}")},
            optional=frozenset({"url"}),
            url="{{ url or '/' }}",
        ),
    ),
    filters={"text": text},
    audiences=(
        AudienceKind("users", {"userIds": "user-1"}, _users, "is one of the users named"),
        AudienceKind("everyone", {}, _everyone, "is a user"),
        AudienceKind("city", {"city": "Berlin"}, _city, "lives in {city}"),
        AudienceKind("opted_in", {"category": "NEW_EVENT"}, _opted_in, "turned {category} on"),
    ),
)
