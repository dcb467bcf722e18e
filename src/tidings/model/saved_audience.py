"""Saved audiences: definitions under a name, which other audiences mention with the kind `saved`. Pure.

A mention is replaced by the definition when a notification is accepted. So a notification keeps the definition with
which it was accepted, and nothing refers to a saved audience that may be deleted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tidings.errors import ValidationFailed
from tidings.model.audience import MAX_DEPTH, MAX_NODES, Audience, Complement, Intersection, NamedSet, Union

SAVED: Final = "saved"


@dataclass(frozen=True, slots=True)
class SavedAudience:
    """An audience that is stored under a name. Its definition may mention other saved audiences."""

    name: str
    definition: Audience
    description: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None


def iter_leaves(audience: Audience, path: str) -> Iterator[tuple[str, NamedSet]]:
    """Yield each set with its path in the caller's JSON: `audience.and[0]`."""
    match audience:
        case NamedSet():
            yield path, audience
        case Union(parts) | Intersection(parts):
            operator = "or" if isinstance(audience, Union) else "and"
            for index, part in enumerate(parts):
                yield from iter_leaves(part, f"{path}.{operator}[{index}]")
        case Complement(part):
            yield from iter_leaves(part, f"{path}.not")


def list_saved_names(audience: Audience) -> list[str]:
    """Return the names of the saved audiences that an audience mentions directly, each once."""
    names = (leaf.arguments.get("name") for _, leaf in iter_leaves(audience, "") if leaf.kind == SAVED)
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def expand_saved(audience: Audience, known: Mapping[str, SavedAudience], path: str = "audience") -> Audience:
    """Return the audience with each mention of a saved audience replaced by its definition, at any depth.

    known: the saved audiences that are mentioned, and those that they mention. Raises ValidationFailed, naming the
    path, for an unknown name, for definitions that mention each other, and for a result of more than `MAX_NODES` parts.
    """
    return _Expansion(known).expand(audience, path, ())


class _Expansion:
    """One expansion. The parts are counted, because definitions that mention others twice grow exponentially."""

    def __init__(self, known: Mapping[str, SavedAudience]) -> None:
        self._known = known
        self._nodes = 0

    def expand(self, audience: Audience, path: str, mentioned_by: tuple[str, ...]) -> Audience:
        """mentioned_by: the saved audiences that lead to this part, outermost first."""
        self._nodes += 1
        if self._nodes > MAX_NODES or len(mentioned_by) > MAX_DEPTH:
            raise ValidationFailed.for_field(
                path, f"is too large with its saved audiences: at most {MAX_DEPTH} levels and {MAX_NODES} parts"
            )
        match audience:
            case NamedSet(kind):
                return self._expand_mention(audience, path, mentioned_by) if kind == SAVED else audience
            case Union(parts):
                return Union(self._expand_parts(parts, f"{path}.or", mentioned_by))
            case Intersection(parts):
                return Intersection(self._expand_parts(parts, f"{path}.and", mentioned_by))
            case Complement(part):
                return Complement(self.expand(part, f"{path}.not", mentioned_by))

    def _expand_parts(
        self, parts: tuple[Audience, ...], path: str, mentioned_by: tuple[str, ...]
    ) -> tuple[Audience, ...]:
        return tuple(self.expand(part, f"{path}[{index}]", mentioned_by) for index, part in enumerate(parts))

    def _expand_mention(self, leaf: NamedSet, path: str, mentioned_by: tuple[str, ...]) -> Audience:
        name = leaf.arguments.get("name")
        if not isinstance(name, str) or set(leaf.arguments) != {"name"}:
            raise ValidationFailed.for_field(path, 'a saved audience is mentioned as {"kind": "saved", "name": "…"}')
        if name in mentioned_by:
            cycle = " → ".join((*mentioned_by[mentioned_by.index(name) :], name))
            raise ValidationFailed.for_field(f"{path}.name", f"saved audiences must not mention each other: {cycle}")
        if name not in self._known:
            via = f", which {mentioned_by[-1]!r} mentions" if mentioned_by else ""
            raise ValidationFailed.for_field(
                f"{path}.name",
                f"no saved audience {name!r}{via}; GET /api/audiences lists them",
                code="unknown_audience",
            )
        # the path is that of the mention: the caller cannot see the parts of the definition
        return self.expand(self._known[name].definition, path, (*mentioned_by, name))
