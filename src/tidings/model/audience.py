"""Audiences: descriptions of recipients, composed with `|` (or), `&` (and) and `-` / `~` (not).

An audience is a small tree. It is stored with the notification as JSON. The store resolves it to pages of user ids, so
memory does not grow with the audience.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tidings.errors import ValidationFailed

MAX_DEPTH = 12
MAX_NODES = 200
#: user ids that a request names, also by its saved audiences
MAX_USER_IDS = 10_000
#: an attribute, or one within another: `address.floor`
ATTRIBUTE_NAME: Final = re.compile(r"(?=.{1,100}\Z)[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*){0,4}", re.ASCII)
#: the name of a saved audience forms one URL path segment
AUDIENCE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class AttributeOperator(StrEnum):
    """How an attribute is compared. Values of different types are never equal, and have no order."""

    EQ = "eq"
    #: there is a value, and it differs
    NE = "ne"
    IN = "in"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    #: a list has the item; a text has the part
    CONTAINS = "contains"
    EXISTS = "exists"


class EngagementAction(StrEnum):
    """What a user did with a message. Machines that open messages and follow links do not count."""

    OPENED = "opened"
    CLICKED = "clicked"
    #: in the feed
    SEEN = "seen"
    READ = "read"
    ANY = "any"


class AudienceNode:
    """The operators of every node of the tree."""

    def __or__(self, other: "Audience") -> "Audience":
        # `a | b | c` becomes one node with three parts, so that a chain does not exceed MAX_DEPTH
        parts = self.parts if isinstance(self, Union) else (self,)
        return Union((*parts, other))

    def __and__(self, other: "Audience") -> "Audience":
        parts = self.parts if isinstance(self, Intersection) else (self,)
        return Intersection((*parts, other))

    def __sub__(self, other: "Audience") -> "Audience":
        return self & Complement(other)

    def __invert__(self) -> "Audience":
        return Complement(self)  # type: ignore[arg-type]  # every subclass is part of the Audience union


@dataclass(frozen=True, slots=True)
class NamedSet(AudienceNode):
    """A set of users by kind and arguments: `ticket_holders` with `{"eventId": "ev-1"}`. Packs declare the kinds."""

    kind: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Union(AudienceNode):
    """Users in at least one part."""

    parts: tuple["Audience", ...]


@dataclass(frozen=True, slots=True)
class Intersection(AudienceNode):
    """Users in every part."""

    parts: tuple["Audience", ...]


@dataclass(frozen=True, slots=True)
class Complement(AudienceNode):
    """Users not in the part."""

    part: "Audience"


Audience = NamedSet | Union | Intersection | Complement


def to_json(audience: Audience) -> dict[str, object]:
    """Return the JSON form, the inverse of `from_json`."""
    match audience:
        case NamedSet(kind, arguments):
            return {"kind": kind, **arguments}
        case Union(parts):
            return {"or": [to_json(part) for part in parts]}
        case Intersection(parts):
            return {"and": [to_json(part) for part in parts]}
        case Complement(part):
            return {"not": to_json(part)}


def from_json(value: object, *, path: str = "audience") -> Audience:
    """Parse the JSON form of an audience.

    A node is `{"kind": "ticket_holders", "eventId": "ev-1"}`, `{"or": […]}`, `{"and": […]}` or `{"not": {…}}`.
    Raises ValidationFailed, naming the path, for an unknown shape or for more than `MAX_DEPTH` levels or `MAX_NODES`
    nodes.
    """
    return _AudienceParser().parse(value, path, 1)


class _AudienceParser:
    def __init__(self) -> None:
        self.node_count = 0

    def parse(self, value: object, path: str, depth: int) -> Audience:
        self.node_count += 1
        if depth > MAX_DEPTH or self.node_count > MAX_NODES:
            raise ValidationFailed.for_field(path, f"is too large: at most {MAX_DEPTH} levels and {MAX_NODES} parts")
        if not isinstance(value, Mapping):
            raise ValidationFailed.for_field(
                path, 'must be an object such as {"kind": "ticket_holders", "eventId": "…"}'
            )
        keys = set(value)
        if keys == {"or"} or keys == {"and"}:
            operator = keys.pop()
            items = value[operator]
            if not isinstance(items, list) or not items:
                raise ValidationFailed.for_field(f"{path}.{operator}", "must be a list with at least one audience")
            parts = tuple(self.parse(item, f"{path}.{operator}[{i}]", depth + 1) for i, item in enumerate(items))
            return Union(parts) if operator == "or" else Intersection(parts)
        if keys == {"not"}:
            return Complement(self.parse(value["not"], f"{path}.not", depth + 1))
        kind = value.get("kind")
        if not isinstance(kind, str):
            raise ValidationFailed.for_field(path, "must have exactly one of: kind, or, and, not")
        return NamedSet(kind, {k: v for k, v in value.items() if k != "kind"})


def explicit_users_or_none(audience: Audience) -> list[str] | None:
    """Return the distinct user ids of an audience that lists all of them; None if the store must resolve it."""
    match audience:
        case NamedSet("users", {"userIds": list(ids)}):
            return list(dict.fromkeys(ids))
        case Union(parts):
            user_ids: dict[str, None] = {}
            for part in parts:
                part_ids = explicit_users_or_none(part)
                if part_ids is None:
                    return None
                user_ids.update(dict.fromkeys(part_ids))
            return list(user_ids)
        case _:
            return None


def merge_user_list(audience: Audience) -> Audience:
    """Return an audience that lists all of its users as one list, any other unchanged."""
    user_ids = explicit_users_or_none(audience)
    return audience if user_ids is None else users(*user_ids)


def list_user_ids(leaf: NamedSet) -> Sequence[str]:
    """Return the user ids that a set names, none if it describes its users otherwise."""
    ids = leaf.arguments.get("userIds") if leaf.kind == "users" else None
    return ids if isinstance(ids, list) else ()


def mentioned_user_ids(audience: Audience, *, with_excluded: bool = False) -> list[str]:
    """Return the user ids mentioned anywhere in the tree. with_excluded: also those under a complement."""
    match audience:
        case NamedSet():
            return list(list_user_ids(audience))
        case Union(parts) | Intersection(parts):
            return [one for part in parts for one in mentioned_user_ids(part, with_excluded=with_excluded)]
        case Complement(part):
            return mentioned_user_ids(part, with_excluded=True) if with_excluded else []


def targets_only(audience: Audience, user_id: str) -> bool:
    """Return whether the audience lists this user explicitly and can contain no other user."""
    match audience:
        case NamedSet("users", arguments):
            return arguments.get("userIds") == [user_id]
        case Union(parts):
            return all(targets_only(part, user_id) for part in parts)
        case Intersection(parts):
            return any(targets_only(part, user_id) for part in parts)
        case _:
            return False


def without_user(audience: Audience, user_id: str) -> Audience:
    """Return the audience with all mentions of this user removed."""
    match audience:
        case NamedSet("users", {"userIds": list(ids)}) if user_id in ids:
            return NamedSet("users", {"userIds": [other for other in ids if other != user_id]})
        case Union(parts):
            return Union(tuple(without_user(part, user_id) for part in parts))
        case Intersection(parts):
            return Intersection(tuple(without_user(part, user_id) for part in parts))
        case Complement(part):
            return Complement(without_user(part, user_id))
        case _:
            return audience


def without_empty_exclusions(audience: Audience) -> Audience:
    """Return the audience without lists of users that became empty, where others remain.

    A list that is the whole audience, or a part of an intersection, stays: without it the audience would be larger.
    """
    match audience:
        case Union(parts):
            kept = [part for part in map(without_empty_exclusions, parts) if not _is_empty_list(part)]
            return Union(tuple(kept)) if kept else users()
        case Intersection(parts):
            simplified = [without_empty_exclusions(part) for part in parts]
            kept = [part for part in simplified if not (isinstance(part, Complement) and _is_empty_list(part.part))]
            return Intersection(tuple(kept or simplified))
        case _:
            return audience


def _is_empty_list(audience: Audience) -> bool:
    return isinstance(audience, NamedSet) and audience.kind == "users" and audience.arguments.get("userIds") == []


def list_kinds(audience: Audience) -> set[str]:
    """Return the kinds of all named sets of the audience."""
    match audience:
        case NamedSet(kind):
            return {kind}
        case Union(parts) | Intersection(parts):
            return set().union(*map(list_kinds, parts))
        case Complement(part):
            return list_kinds(part)


def map_leaves(audience: Audience, change: Callable[[NamedSet], Audience]) -> Audience:
    """Return the audience with each named set replaced by the result of `change`."""
    match audience:
        case NamedSet():
            return change(audience)
        case Union(parts):
            return Union(tuple(map_leaves(part, change) for part in parts))
        case Intersection(parts):
            return Intersection(tuple(map_leaves(part, change) for part in parts))
        case Complement(part):
            return Complement(map_leaves(part, change))


def users(*ids: str) -> Audience:
    """Exactly these users."""
    return NamedSet("users", {"userIds": list(dict.fromkeys(ids))})


def everyone() -> Audience:
    """Every user."""
    return NamedSet("everyone")


def city(name: str) -> Audience:
    """Users of a city."""
    return NamedSet("city", {"city": name})


def country(code: str) -> Audience:
    """Users of a country, by its ISO 3166-1 alpha-2 code."""
    return NamedSet("country", {"country": code})


def near(latitude: float, longitude: float, *, radius_km: float) -> Audience:
    """Users within a distance of a point, given in degrees north and east."""
    return NamedSet("near", {"latitude": latitude, "longitude": longitude, "radiusKm": radius_km})


def attribute(name: str, operator: str = "exists", value: object = None) -> Audience:
    """Users with an attribute that satisfies an operator, see `AttributeOperator`.

    name: a key, or keys joined with dots. value: a text, a number or a boolean; a list of them for `in`; None for
    `exists`.
    """
    return NamedSet("attribute", {"name": name, "operator": operator} | ({} if value is None else {"value": value}))


def timezones(*names: str) -> Audience:
    """Users whose time zone is one of these: that of their schedule, or else that of their profile.

    names: IANA names; an empty text stands for users who have set none.
    """
    return NamedSet("timezone", {"timezones": list(dict.fromkeys(names))})


def topic(name: str) -> Audience:
    """Users who subscribed to a topic."""
    return NamedSet("topic", {"topic": name})


def engaged(*, days: int, action: str = "any", channel: str | None = None) -> Audience:
    """Users who did something with a message within a number of days, see `EngagementAction`. channel: None = any."""
    return NamedSet("engaged", _describe_engagement(days, action, channel))


def not_engaged(*, days: int, action: str = "any", channel: str | None = None) -> Audience:
    """Users who did not do this within a number of days, those who received no message included."""
    return NamedSet("not_engaged", _describe_engagement(days, action, channel))


def _describe_engagement(days: int, action: str, channel: str | None) -> Mapping[str, object]:
    return {"action": action, "days": days} | ({} if channel is None else {"channel": channel})


def saved(name: str) -> Audience:
    """The users of a saved audience, as it is defined when the notification is accepted."""
    return NamedSet("saved", {"name": name})


def opted_in(category: str) -> Audience:
    """Users who turned a category on, on any channel."""
    return NamedSet("opted_in", {"category": category})


def informed(subject: str) -> Audience:
    """Users who were sent a notification on a subject."""
    return NamedSet("informed", {"subject": subject})


def informed_before(subject: str, version: int) -> Audience:
    """Users who were sent a notification on a subject of an older version than this."""
    return NamedSet("informed_before", {"subject": subject, "version": str(version)})


def being_informed(subject: str) -> Audience:
    """Users to whom a notification on a subject is being sent."""
    return NamedSet("being_informed", {"subject": subject})


def ticket_holders(event_id: str) -> Audience:
    """Users with an active ticket of an event."""
    return NamedSet("ticket_holders", {"eventId": event_id})


def favourited(event_id: str) -> Audience:
    """Users who favourited an event."""
    return NamedSet("favourited", {"eventId": event_id})


def favourited_host(host_id: str) -> Audience:
    """Users who favourited any event of a host."""
    return NamedSet("favourited_host", {"hostId": host_id})
