"""Saved audiences: definitions under a name, which other audiences mention with the kind `saved`. Pure.

A mention is replaced by the definition when a notification is accepted. So a notification keeps the definition with
which it was accepted, and nothing refers to a saved audience that may be deleted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tidings.errors import ValidationFailed
from tidings.model.audience import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_USER_IDS,
    Audience,
    Complement,
    Intersection,
    NamedSet,
    Union,
    list_user_ids,
)

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


def expand_saved(
    audience: Audience, known: Mapping[str, SavedAudience], path: str = "audience", *, name: str | None = None
) -> Audience:
    """Return the audience with each mention of a saved audience replaced by its definition, at any depth.

    known: the saved audiences that are mentioned, and those that they mention. name: of the audience itself if it is
    saved, so that it cannot mention itself. Raises ValidationFailed, naming the path, for an unknown name, for
    definitions that mention each other, and for a result of more than `MAX_NODES` parts or `MAX_USER_IDS` user ids.
    """
    return _Expansion(known).expand(audience, path, () if name is None else (name,))


class _Expansion:
    """One expansion. Parts and user ids are counted: definitions that mention others twice grow exponentially."""

    def __init__(self, known: Mapping[str, SavedAudience]) -> None:
        self._known = known
        self._nodes = 0
        self._user_ids = 0

    def expand(
        self, audience: Audience, path: str, mentioned_by: tuple[str, ...], *, in_mention: bool = False
    ) -> Audience:
        """Return the expanded part.

        mentioned_by: the saved audiences that lead to it, outermost first. in_mention: it is part of a definition,
        whose errors have the path of the mention: the caller did not write the definition.
        """
        self._nodes += 1
        if self._nodes > MAX_NODES or len(mentioned_by) > MAX_DEPTH:
            raise ValidationFailed.for_field(
                path, f"is too large with its saved audiences: at most {MAX_DEPTH} levels and {MAX_NODES} parts"
            )

        def expand_part(part: Audience, suffix: str) -> Audience:
            return self.expand(part, path if in_mention else path + suffix, mentioned_by, in_mention=in_mention)

        match audience:
            case NamedSet(kind) if kind == SAVED:
                return self._expand_mention(audience, path, mentioned_by)
            case NamedSet():
                self._count_user_ids(audience, path)
                return audience
            case Union(parts):
                return Union(tuple(expand_part(part, f".or[{index}]") for index, part in enumerate(parts)))
            case Intersection(parts):
                return Intersection(tuple(expand_part(part, f".and[{index}]") for index, part in enumerate(parts)))
            case Complement(part):
                return Complement(expand_part(part, ".not"))

    def _count_user_ids(self, leaf: NamedSet, path: str) -> None:
        self._user_ids += len(list_user_ids(leaf))
        if self._user_ids > MAX_USER_IDS:
            raise ValidationFailed.for_field(
                path,
                f"names more than {MAX_USER_IDS} user ids with its saved audiences, each mention counted; use an "
                "attribute or a topic of these users, or send several notifications",
            )

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
        return self.expand(self._known[name].definition, path, (*mentioned_by, name), in_mention=True)
