"""Who: a description of an audience that can be composed with `|` (or), `&` (and) and `-` / `~` (not) (MISSION M3).

An audience is a small tree. It is stored with the notification as JSON and turned into pages of user ids by the
store, so that memory does not grow with the audience.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidings.errors import Invalid

MAX_DEPTH = 12
MAX_NODES = 200


class Composable:
    """Operators shared by every node of the tree."""

    def __or__(self, other: "Audience") -> "Audience":
        # `a | b | c` is one list of three: a chain must not run into MAX_DEPTH
        parts = self.parts if isinstance(self, AnyOf) else (self,)
        return AnyOf((*parts, other))

    def __and__(self, other: "Audience") -> "Audience":
        parts = self.parts if isinstance(self, AllOf) else (self,)
        return AllOf((*parts, other))

    def __sub__(self, other: "Audience") -> "Audience":
        return self & Except(other)

    def __invert__(self) -> "Audience":
        return Except(self)  # type: ignore[arg-type]  # as above


@dataclass(frozen=True, slots=True)
class Members(Composable):
    """A named set of users, e.g. kind `ticket_holders` with `{"eventId": "ev-1"}`. Packs declare the kinds."""

    kind: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnyOf(Composable):
    """Users in at least one part."""

    parts: tuple["Audience", ...]


@dataclass(frozen=True, slots=True)
class AllOf(Composable):
    """Users in every part."""

    parts: tuple["Audience", ...]


@dataclass(frozen=True, slots=True)
class Except(Composable):
    """Users not in the part."""

    part: "Audience"


Audience = Members | AnyOf | AllOf | Except


def to_json(audience: Audience) -> dict[str, object]:
    """Return the JSON form, the inverse of `from_json`."""
    match audience:
        case Members(kind, arguments):
            return {"kind": kind, **arguments}
        case AnyOf(parts):
            return {"or": [to_json(part) for part in parts]}
        case AllOf(parts):
            return {"and": [to_json(part) for part in parts]}
        case Except(part):
            return {"not": to_json(part)}


def from_json(value: object, *, path: str = "audience") -> Audience:
    """Return the audience of a JSON form: `{"kind": "ticket_holders", "eventId": "ev-1"}`, `{"or": […]}`,
    `{"and": […]}` or `{"not": {…}}`.

    Raises Invalid, naming the path, for an unknown shape, more than 12 levels or more than 200 nodes.
    """
    return _Reader().read(value, path, 1)


class _Reader:
    def __init__(self) -> None:
        self.nodes = 0

    def read(self, value: object, path: str, depth: int) -> Audience:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise Invalid.field(path, f"is too large: at most {MAX_DEPTH} levels and {MAX_NODES} parts")
        if not isinstance(value, Mapping):
            raise Invalid.field(path, 'must be an object such as {"kind": "ticket_holders", "eventId": "…"}')
        keys = set(value)
        if keys == {"or"} or keys == {"and"}:
            word = keys.pop()
            parts = value[word]
            if not isinstance(parts, list) or not parts:
                raise Invalid.field(f"{path}.{word}", "must be a list with at least one audience")
            read = tuple(self.read(p, f"{path}.{word}[{i}]", depth + 1) for i, p in enumerate(parts))
            return AnyOf(read) if word == "or" else AllOf(read)
        if keys == {"not"}:
            return Except(self.read(value["not"], f"{path}.not", depth + 1))
        kind = value.get("kind")
        if not isinstance(kind, str):
            raise Invalid.field(path, "must have exactly one of: kind, or, and, not")
        return Members(kind, {k: v for k, v in value.items() if k != "kind"})


def only(audience: Audience, user_id: str) -> bool:
    """Return whether nobody but this user can be in the audience, because it names them."""
    match audience:
        case Members("users", arguments):
            return arguments.get("userIds") == [user_id]
        case AnyOf(parts):
            return all(only(part, user_id) for part in parts)
        case AllOf(parts):
            return any(only(part, user_id) for part in parts)
        case _:
            return False


def without(audience: Audience, user_id: str) -> Audience:
    """Return the audience that no longer names this user."""
    match audience:
        case Members("users", {"userIds": list(ids)}) if user_id in ids:
            return Members("users", {"userIds": [one for one in ids if one != user_id]})
        case AnyOf(parts):
            return AnyOf(tuple(without(part, user_id) for part in parts))
        case AllOf(parts):
            return AllOf(tuple(without(part, user_id) for part in parts))
        case Except(part):
            return Except(without(part, user_id))
        case _:
            return audience


def users(*ids: str) -> Audience:
    """Exactly these users."""
    return Members("users", {"userIds": list(dict.fromkeys(ids))})


def everyone() -> Audience:
    """Every user."""
    return Members("everyone")


def city(name: str) -> Audience:
    """Users of a city."""
    return Members("city", {"city": name})


def opted_in(category: str) -> Audience:
    """Users who turned a category on themselves, on any channel."""
    return Members("opted_in", {"category": category})


def ticket_holders(event_id: str) -> Audience:
    """Users with an active ticket of an event."""
    return Members("ticket_holders", {"eventId": event_id})


def favourited(event_id: str) -> Audience:
    """Users who favourited an event."""
    return Members("favourited", {"eventId": event_id})


def favourited_host(host_id: str) -> Audience:
    """Users who favourited any event of a host."""
    return Members("favourited_host", {"hostId": host_id})
