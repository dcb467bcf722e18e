"""The audience kinds by what is known of users: attributes, place, time zone, topics, and what they opened or read."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Select, between, false, func, not_, or_, select

from tidings.localization.locale_and_zone import MAX_NAME_LENGTH
from tidings.model.audience import ATTRIBUTE_NAME, AttributeOperator, EngagementAction
from tidings.model.channel_engagement import ENGAGEMENT_CAUSES, FEED_CHANNEL
from tidings.model.geography import MAX_RADIUS_KM, compute_bounding_box, compute_haversine
from tidings.model.receipt import EventCause
from tidings.model.topic import TOPIC_NAME
from tidings.ports.pack import AudienceKind
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.user_schedules import STORED_ZONE, SqlUserSchedules
from tidings.stores.schema.provider_tables import receipts
from tidings.stores.schema.tables import contact_points, inbox_items, user_schedules, user_topics, users
from tidings.stores.sql.attribute_conditions import match_attribute

MAX_DAYS: Final = 365
MAX_VALUES: Final = 100
#: more than the time zones that there are
MAX_ZONES: Final = 1000
#: characters of an attribute's value
MAX_VALUE_LENGTH: Final = 200
#: larger numbers are not exact in JSON (RFC 8259 §6)
_MAX_NUMBER: Final = 2**53
_CAUSES: Final[Mapping[EngagementAction, Sequence[str]]] = {
    EngagementAction.OPENED: (EventCause.OPEN.value,),
    EngagementAction.CLICKED: (EventCause.CLICK.value,),
    EngagementAction.ANY: ENGAGEMENT_CAUSES,
}
_INSTANTS: Final = {
    EngagementAction.SEEN: (inbox_items.c.seen_at,),
    EngagementAction.READ: (inbox_items.c.read_at,),
    EngagementAction.ANY: (inbox_items.c.seen_at, inbox_items.c.read_at),
}

# attributes -----------------------------------------------------------------------------------------------------------


def _select_attribute(arguments: Mapping[str, object]) -> Select[str]:
    name, operator = str(arguments["name"]), str(arguments["operator"])
    matches = match_attribute(users.c.attributes, name, operator, arguments.get("value"))
    # Users are read in order until the page is full. PostgreSQL takes a COALESCE for true of half of them; it takes a
    # comparison for true of few, and would scan and sort all users for each page.
    return select(users.c.id).where(func.coalesce(matches, false()))


def _validate_attribute(arguments: Mapping[str, object]) -> Mapping[str, str]:
    name, operator, value = arguments.get("name"), arguments.get("operator"), arguments.get("value")
    if not isinstance(name, str) or not ATTRIBUTE_NAME.fullmatch(name):
        return {"name": "must be the name of an attribute, such as plan or address.floor: letters, digits, _ and -"}
    if operator not in tuple(AttributeOperator):
        return {"operator": f"must be one of {', '.join(AttributeOperator)}"}
    match operator:
        case AttributeOperator.EXISTS:
            return {} if "value" not in arguments else {"value": "must be left out for the operator exists"}
        case AttributeOperator.IN:
            if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALUES or not all(map(_is_scalar, value)):
                return {"value": f"must be a list of 1 to {MAX_VALUES} texts, numbers or booleans"}
            return {}
        case AttributeOperator.GT | AttributeOperator.GTE | AttributeOperator.LT | AttributeOperator.LTE:
            if isinstance(value, bool) or not _is_scalar(value):
                return {"value": "must be a number, or a text of at most 200 characters"}
            return {}
        case _:
            return (
                {} if _is_scalar(value) else {"value": "must be a number, a boolean, or a text of 1 to 200 characters"}
            )


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return 1 <= len(value) <= MAX_VALUE_LENGTH and "\0" not in value
    return isinstance(value, bool) or _is_number(value)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # false for NaN too; `math.isfinite` raises OverflowError for huge integers
    return abs(value) <= _MAX_NUMBER


# place ----------------------------------------------------------------------------------------------------------------


def _select_country(arguments: Mapping[str, object]) -> Select[str]:
    return select(users.c.id).where(users.c.country == str(arguments["country"]).upper())


def _validate_country(arguments: Mapping[str, object]) -> Mapping[str, str]:
    try:
        _normalize_country(arguments.get("country"))
    except ValueError as error:
        return {"country": str(error)}
    return {}


def _pin_country(arguments: Mapping[str, object], _now: datetime) -> Mapping[str, object]:
    return {"country": _normalize_country(arguments["country"])}


def _normalize_country(code: object) -> str:
    # imported here, because commands that read the database load no locale data
    from tidings.schemas.field_types import normalize_country

    return normalize_country(str(code))


def _select_near(arguments: Mapping[str, object]) -> Select[str]:
    latitude, longitude = _to_float(arguments["latitude"]), _to_float(arguments["longitude"])
    radius = _to_float(arguments["radiusKm"])
    box = compute_bounding_box(latitude, longitude, radius)
    row = users.c
    half_height = func.sin((func.radians(row.latitude) - math.radians(latitude)) / 2)
    half_width = func.sin((func.radians(row.longitude) - math.radians(longitude)) / 2)
    cosines = func.cos(func.radians(row.latitude)) * math.cos(math.radians(latitude))
    query = select(row.id).where(
        row.latitude.is_not(None),
        between(row.latitude, box.south, box.north),
        half_height * half_height + cosines * half_width * half_width <= compute_haversine(radius),
    )
    if not box.longitudes:
        return query
    return query.where(or_(*(between(row.longitude, west, east) for west, east in box.longitudes)))


def _validate_near(arguments: Mapping[str, object]) -> Mapping[str, str]:
    limits = {"latitude": (-90.0, 90.0), "longitude": (-180.0, 180.0), "radiusKm": (0.001, MAX_RADIUS_KM)}
    return {
        name: f"must be a number from {low:g} to {high:g}"
        for name, (low, high) in limits.items()
        if not (_is_number(value := arguments.get(name)) and low <= _to_float(value) <= high)
    }


def _to_float(value: object) -> float:
    assert isinstance(value, int | float), "validated on acceptance"
    return float(value)


# time zones -----------------------------------------------------------------------------------------------------------


def _select_timezone(arguments: Mapping[str, object]) -> Select[str]:
    names = arguments["timezones"]
    assert isinstance(names, list), "validated on acceptance"
    query = select(users.c.id).outerjoin(user_schedules, user_schedules.c.user_id == users.c.id)
    # for the plan of PostgreSQL, as above
    return query.where(func.coalesce(STORED_ZONE.in_(names), false()))


def _validate_timezone(arguments: Mapping[str, object]) -> Mapping[str, str]:
    names = arguments.get("timezones")
    if isinstance(names, list) and 1 <= len(names) <= MAX_ZONES and all(map(_is_text, names)):
        return {}
    return {"timezones": f"must be a list of 1 to {MAX_ZONES} IANA names such as Europe/Zurich; empty = none was set"}


def _is_text(name: object) -> bool:
    return isinstance(name, str) and len(name) <= MAX_NAME_LENGTH and name.isprintable()


async def _check_timezone(tx: Transaction, arguments: Mapping[str, object]) -> Mapping[str, str]:
    names = arguments["timezones"]
    assert isinstance(names, list), "validated before"
    unknown = [name for name in names if name and _find_zone(name) is None]
    if unknown:
        # users may have zones of newer data than this machine's
        held = set(await SqlUserSchedules().list_timezones(tx))
        unknown = [name for name in unknown if name not in held]
    if not unknown:
        return {}
    shown = ", ".join(map(repr, unknown[:5])) + (" …" if len(unknown) > 5 else "")
    return {"timezones": f"unknown: {shown}; known are IANA names such as Europe/Zurich; empty = none was set"}


def _pin_timezone(arguments: Mapping[str, object], _now: datetime) -> Mapping[str, object]:
    """Give the names their canonical case, in which they are stored."""
    names = arguments["timezones"]
    assert isinstance(names, list), "validated before"
    return {"timezones": list(dict.fromkeys(_find_zone(name) or name for name in names))}


def _find_zone(name: str) -> str | None:
    # imported here, as above
    from tidings.schemas.field_types import normalize_timezone

    try:
        return normalize_timezone(name)
    except ValueError:
        return None


# topics ---------------------------------------------------------------------------------------------------------------


def _select_topic(arguments: Mapping[str, object]) -> Select[str]:
    return select(user_topics.c.user_id).where(user_topics.c.topic == arguments["topic"])


def _validate_topic(arguments: Mapping[str, object]) -> Mapping[str, str]:
    topic = arguments.get("topic")
    if isinstance(topic, str) and TOPIC_NAME.fullmatch(topic):
        return {}
    return {"topic": "must be the name of a topic, such as jazz: 1 to 100 letters, digits or . _ : -"}


async def _check_topic(tx: Transaction, arguments: Mapping[str, object]) -> Mapping[str, str]:
    query = select(user_topics.c.topic).where(user_topics.c.topic == arguments["topic"]).limit(1)
    if await connection_of(tx).scalar(query) is not None:
        return {}
    return {"topic": "has no subscribers; PUT /api/users/{id}/topics/{topic} subscribes one"}


# engagement -----------------------------------------------------------------------------------------------------------


def _select_engaged(arguments: Mapping[str, object]) -> Select[str]:
    return select(users.c.id).where(_is_engaged(arguments))


def _select_not_engaged(arguments: Mapping[str, object]) -> Select[str]:
    return select(users.c.id).where(not_(_is_engaged(arguments)))


def _is_engaged(arguments: Mapping[str, object]) -> ColumnElement[bool]:
    """Return the condition that a user did something since an instant. Each part is found by an index per user.

    With an OFFSET, PostgreSQL evaluates a subquery per user. Without, it would read the events of all users for each
    page, into a hash table.
    """
    action, channel = EngagementAction(str(arguments["action"])), arguments.get("channel")
    since = datetime.fromisoformat(str(arguments["since"]))
    conditions: list[ColumnElement[bool]] = []
    if action in _CAUSES and channel != FEED_CHANNEL:
        recent = [receipts.c.cause.in_(_CAUSES[action]), receipts.c.occurred_at >= since]
        if channel is not None:
            recent.append(receipts.c.channel == channel)
        own = select(receipts.c.id).where(receipts.c.user_id == users.c.id, receipts.c.user_id.is_not(None), *recent)
        # events of providers name the address only
        by_address = (
            select(receipts.c.id)
            .join(contact_points, contact_points.c.address_digest == receipts.c.address_digest)
            .where(contact_points.c.user_id == users.c.id, receipts.c.user_id.is_(None), *recent)
        )
        conditions += [own.offset(0).exists(), by_address.offset(0).exists()]
    if action in _INSTANTS and channel in (None, FEED_CHANNEL):
        happened = or_(*(instant >= since for instant in _INSTANTS[action]))
        items = select(inbox_items.c.id).where(inbox_items.c.user_id == users.c.id, happened)
        conditions.append(items.offset(0).exists())
    return or_(*conditions)


def _validate_engaged(arguments: Mapping[str, object]) -> Mapping[str, str]:
    action, channel = arguments.get("action"), arguments.get("channel")
    days, since = arguments.get("days"), arguments.get("since")
    if action not in tuple(EngagementAction):
        return {"action": f"must be one of {', '.join(EngagementAction)}"}
    if "channel" in arguments:
        if not isinstance(channel, str) or not 1 <= len(channel) <= 32 or not channel.isprintable():
            return {"channel": "must be the name of a channel; leave it out for any"}
        if action in (EngagementAction.SEEN, EngagementAction.READ) and channel != FEED_CHANNEL:
            return {"channel": f"must be {FEED_CHANNEL} or left out, because only feeds report {action}"}
        if action in (EngagementAction.OPENED, EngagementAction.CLICKED) and channel == FEED_CHANNEL:
            return {"channel": f"feeds report seen and read, not {action}"}
    if ("days" in arguments) == ("since" in arguments):
        return {"days": f"give days, a whole number from 1 to {MAX_DAYS}, or since, but not both"}
    if "days" in arguments and (isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= MAX_DAYS):
        return {"days": f"must be a whole number from 1 to {MAX_DAYS}"}
    if "since" in arguments:
        try:
            _parse_instant(since)
        except ValueError as error:
            return {"since": str(error)}
    return {}


def _pin_engaged(arguments: Mapping[str, object], now: datetime) -> Mapping[str, object]:
    """Replace a number of days by the instant, so that every page and every later check has the same limit."""
    days = arguments.get("days")
    if isinstance(days, int):
        since = (now - timedelta(days=days)).astimezone(UTC).replace(microsecond=0)
    else:
        since = _parse_instant(arguments["since"])
    return {name: value for name, value in arguments.items() if name != "days"} | {"since": since.isoformat()}


def _parse_instant(text: object) -> datetime:
    # imported here, as above
    from tidings.schemas.field_types import parse_instant

    instant = parse_instant(text)
    assert isinstance(instant, datetime), "or it raised ValueError"
    return instant


_ENGAGED_PARAMETERS = {"action": "opened", "channel": "email", "days": "30", "since": "2026-11-01T00:00:00Z"}

AUDIENCES = (
    AudienceKind(
        "attribute",
        {"name": "plan", "operator": "eq", "value": "pro"},
        _select_attribute,
        "has an attribute {name} that is {operator} {value}",
        validate=_validate_attribute,
        breadth=6,
    ),
    AudienceKind(
        "country",
        {"country": "CH"},
        _select_country,
        "lives in the country {country}",
        validate=_validate_country,
        pin=_pin_country,
        breadth=4,
    ),
    AudienceKind(
        "near",
        {"latitude": "47.37", "longitude": "8.54", "radiusKm": "25"},
        _select_near,
        "is within {radiusKm} km of {latitude}, {longitude}",
        validate=_validate_near,
        breadth=3,
    ),
    AudienceKind(
        "timezone",
        {"timezones": "Europe/Zurich"},
        _select_timezone,
        "has one of the time zones {timezones}",
        _check_timezone,
        validate=_validate_timezone,
        pin=_pin_timezone,
        breadth=6,
    ),
    AudienceKind(
        "topic",
        {"topic": "jazz"},
        _select_topic,
        "subscribed to the topic {topic}",
        _check_topic,
        validate=_validate_topic,
        breadth=2,
    ),
    AudienceKind(
        "engaged",
        _ENGAGED_PARAMETERS,
        _select_engaged,
        "{action} a message since {since}",
        validate=_validate_engaged,
        pin=_pin_engaged,
        breadth=5,
    ),
    AudienceKind(
        "not_engaged",
        _ENGAGED_PARAMETERS,
        _select_not_engaged,
        "has not {action} a message since {since}",
        validate=_validate_engaged,
        pin=_pin_engaged,
        breadth=7,
    ),
)
