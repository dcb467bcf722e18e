"""Evaluates whether a user is in an audience: the audience tree with a result and a sentence per node. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tidings.model.audience import Audience, Complement, Intersection, NamedSet, Union
from tidings.ports.pack import AudienceKind

#: list items shown in a sentence
_MAX_SHOWN_VALUES = 3


@dataclass(frozen=True, slots=True)
class MembershipNode:
    """One node of the audience tree, and whether the user is in it."""

    operator: Literal["is", "any", "all", "not"]
    is_member: bool
    #: description of a leaf; empty for other nodes
    sentence: str = ""
    parts: tuple["MembershipNode", ...] = ()

    def iter_sentences(self, user: str) -> Iterator[str]:
        """Yield one sentence per leaf: `ana: holds an active ticket of event X → no`."""
        if self.operator == "is":
            yield f"{user}: {self.sentence} → {'yes' if self.is_member else 'no'}."
        for part in self.parts:
            yield from part.iter_sentences(user)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        node: dict[str, object] = {"operator": self.operator, "holds": self.is_member}
        if self.operator == "is":
            return node | {"sentence": self.sentence}
        return node | {"parts": [part.to_json() for part in self.parts]}


def iter_leaves(audience: Audience) -> Iterator[NamedSet]:
    """Yield the leaves from left to right."""
    match audience:
        case NamedSet():
            yield audience
        case Union(parts) | Intersection(parts):
            for part in parts:
                yield from iter_leaves(part)
        case Complement(part):
            yield from iter_leaves(part)


def evaluate_membership(
    audience: Audience, is_in: Mapping[int, bool], kinds: Mapping[str, AudienceKind], user_id: str
) -> MembershipNode:
    """Return the evaluated tree. `is_in`: position of a leaf in `iter_leaves` → whether the user is in it."""
    results = iter(is_in[position] for position in range(len(is_in)))

    def evaluate(audience: Audience) -> MembershipNode:
        match audience:
            case NamedSet():
                return MembershipNode("is", next(results), describe_leaf(audience, kinds, user_id))
            case Union(parts):
                nodes = tuple(evaluate(part) for part in parts)
                return MembershipNode("any", any(node.is_member for node in nodes), parts=nodes)
            case Intersection(parts):
                nodes = tuple(evaluate(part) for part in parts)
                return MembershipNode("all", all(node.is_member for node in nodes), parts=nodes)
            case Complement(part):
                node = evaluate(part)
                return MembershipNode("not", not node.is_member, parts=(node,))

    return evaluate(audience)


def describe_leaf(leaf: NamedSet, kinds: Mapping[str, AudienceKind], user_id: str) -> str:
    """Return the description of a leaf, from the sentence of its kind. Other users' ids are counted, not shown."""
    kind = kinds.get(leaf.kind)
    if kind is None:
        return f"is one of {leaf.kind} (an unknown audience kind)"
    shown: dict[str, str] = {}
    for name, value in leaf.arguments.items():
        if not isinstance(value, list):
            shown[name] = str(value)
        elif name == "userIds":
            others = sum(item != user_id for item in value)
            parts = [user_id] if user_id in value else []
            if others:
                parts.append(f"{others} others" if parts else f"{others} users")
            shown[name] = " and ".join(parts)
        else:
            shown[name] = ", ".join(str(item) for item in value[:_MAX_SHOWN_VALUES]) + (
                ", …" if len(value) > _MAX_SHOWN_VALUES else ""
            )
    try:
        return kind.sentence.format_map(shown)
    except (KeyError, IndexError, ValueError):
        # the pack's sentence and the stored arguments may have different versions
        return f"is one of {leaf.kind} ({', '.join(f'{name}: {value}' for name, value in shown.items())})"
