"""Is this user in this audience? The tree with true and false at each leaf, and in words. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tidings.model.audience import AllOf, AnyOf, Audience, Except, Members
from tidings.ports.pack import AudienceKind

#: ids shown of a list in a sentence
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Membership:
    """One node of an audience with whether the user is in it."""

    operator: Literal["is", "any", "all", "not"]
    holds: bool
    #: a leaf's own words; empty for the others
    sentence: str = ""
    parts: tuple["Membership", ...] = ()

    def sentences(self, user: str) -> Iterator[str]:
        """Yield one sentence per leaf: `ana: holds an active ticket of event X → no`."""
        if self.operator == "is":
            yield f"{user}: {self.sentence} → {'yes' if self.holds else 'no'}."
        for part in self.parts:
            yield from part.sentences(user)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        shown: dict[str, object] = {"operator": self.operator, "holds": self.holds}
        if self.operator == "is":
            return shown | {"sentence": self.sentence}
        return shown | {"parts": [part.to_json() for part in self.parts]}


def leaves(audience: Audience) -> Iterator[Members]:
    """Yield the leaves from left to right."""
    match audience:
        case Members():
            yield audience
        case AnyOf(parts) | AllOf(parts):
            for part in parts:
                yield from leaves(part)
        case Except(part):
            yield from leaves(part)


def judge(audience: Audience, is_in: Mapping[int, bool], kinds: Mapping[str, AudienceKind], user_id: str) -> Membership:
    """Return the tree. is_in: position of each leaf, as `leaves` yields them → whether the user is in it."""
    answers = iter(is_in[position] for position in range(len(is_in)))

    def walk(node: Audience) -> Membership:
        match node:
            case Members():
                return Membership("is", next(answers), sentence_of(node, kinds, user_id))
            case AnyOf(parts):
                inner = tuple(walk(part) for part in parts)
                return Membership("any", any(part.holds for part in inner), parts=inner)
            case AllOf(parts):
                inner = tuple(walk(part) for part in parts)
                return Membership("all", all(part.holds for part in inner), parts=inner)
            case Except(part):
                one = walk(part)
                return Membership("not", not one.holds, parts=(one,))

    return walk(audience)


def sentence_of(leaf: Members, kinds: Mapping[str, AudienceKind], user_id: str) -> str:
    """Return what a leaf says, from its kind's sentence. Other users' ids are counted, not shown."""
    kind = kinds.get(leaf.kind)
    if kind is None:
        return f"is one of {leaf.kind} (a kind of audience that is not known any more)"
    shown: dict[str, str] = {}
    for name, value in leaf.arguments.items():
        if not isinstance(value, list):
            shown[name] = str(value)
        elif name == "userIds":
            others = len([one for one in value if one != user_id])
            named = [user_id] if user_id in value else []
            shown[name] = " and ".join([*named, *([f"{others} others" if named else f"{others} users"] * bool(others))])
        else:
            shown[name] = ", ".join(str(one) for one in value[:_SHOWN]) + (", …" if len(value) > _SHOWN else "")
    try:
        return kind.sentence.format_map(shown)
    except (KeyError, IndexError, ValueError):
        # a pack's sentence and its stored arguments may be of different versions
        return f"is one of {leaf.kind} ({', '.join(f'{name}: {value}' for name, value in shown.items())})"
