"""What can be said to whom: the categories, templates and kinds of audience of all packs, checked at the start."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar, assert_never

from tidings.errors import ConfigError, Invalid
from tidings.model.audience import AllOf, AnyOf, Audience, Except, Members, from_json, to_json
from tidings.model.template import Category, Template
from tidings.ports.pack import AudienceKind, Filter, Pack

_T = TypeVar("_T")
#: most explicit ids in one audience; larger sets belong into a kind of audience of their own
MAX_EXPLICIT = 10_000
#: highest limit per user and hour; each counted notification is kept for an hour
MAX_HOURLY = 10_000


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that packs and the engine declare, by name."""

    categories: Mapping[str, Category]
    templates: Mapping[str, Template]
    audiences: Mapping[str, AudienceKind]
    filters: Mapping[str, Filter]
    #: channels that are set up
    channels: tuple[str, ...]
    #: channels that Tidings knows of, set up or not
    known_channels: tuple[str, ...]

    @classmethod
    def of(cls, packs: Sequence[Pack], *, channels: Sequence[str], known_channels: Sequence[str]) -> "Catalog":
        """Merge packs.

        Raises ConfigError when two declare the same name, a limit is out of range or a template lacks English words.
        """
        found = cls(
            categories=_by_name("category", ((c.code, c) for pack in packs for c in pack.categories)),
            templates=_by_name("template", ((t.code, t) for pack in packs for t in pack.templates)),
            audiences=_by_name("audience kind", ((a.name, a) for pack in packs for a in pack.audiences)),
            filters=_by_name("filter", (item for pack in packs for item in pack.filters.items())),
            channels=tuple(channels),
            known_channels=tuple(known_channels),
        )
        for category in found.categories.values():
            if category.hourly_limit is not None and not 0 <= category.hourly_limit <= MAX_HOURLY:
                raise ConfigError("packs", f"category {category.code} needs an hourly_limit from 0 to {MAX_HOURLY}")
        for template in found.templates.values():
            if template.category not in found.categories:
                raise ConfigError("packs", f"template {template.code} names the unknown category {template.category}")
            if "en" not in template.words:
                raise ConfigError("packs", f"template {template.code} has no English words")
        return found

    def template(self, code: str) -> Template:
        """Return a template. Raises Invalid naming the nearest one."""
        if found := self.templates.get(code):
            return found
        raise Invalid.field(
            "templateCode", f"no template {code!r}{_nearest(code, self.templates)}", code="unknown_template"
        )

    def category(self, code: str) -> Category:
        """Return a category; one whose pack is not installed any more is a plain one, on by default."""
        return self.categories.get(code) or Category(code, code)

    def check_limits(self, limits: Mapping[str, int]) -> None:
        """Raise ConfigError when the setting `category_limits` names an unknown category or is out of range."""
        for code, limit in limits.items():
            if code not in self.categories:
                raise ConfigError("TIDINGS_CATEGORY_LIMITS", f"no category {code!r}{_nearest(code, self.categories)}")
            if not 0 <= limit <= MAX_HOURLY:
                raise ConfigError("TIDINGS_CATEGORY_LIMITS", f"{code} needs a number from 0 to {MAX_HOURLY}")

    def check_audience(self, audience: Audience, path: str = "audience") -> None:
        """Raise Invalid when a kind is unknown, its arguments are not the declared ones, or the tree is too large."""
        from_json(to_json(audience), path=path)  # what the store could not read back must not get in
        self._check(audience, path)

    def _check(self, audience: Audience, path: str) -> None:
        match audience:
            case Members(kind, arguments):
                self._check_members(kind, arguments, path)
            case AnyOf(parts) | AllOf(parts):
                for part in parts:
                    self._check(part, path)
            case Except(part):
                self._check(part, path)
            case _:
                assert_never(audience)

    def _check_members(self, kind: str, arguments: Mapping[str, object], path: str) -> None:
        declared = self.audiences.get(kind)
        if declared is None:
            raise Invalid.field(f"{path}.kind", f"no kind of audience {kind!r}{_nearest(kind, self.audiences)}")
        for name in sorted(set(arguments) - set(declared.parameters)):
            raise Invalid.field(f"{path}.{name}", f"{kind} does not take it{_nearest(name, declared.parameters)}")
        for name, example in declared.parameters.items():
            value = arguments.get(name)
            if name == "userIds":
                _check_ids(value, f"{path}.{name}")
            elif not isinstance(value, str) or not value or len(value) > 200:
                raise Invalid.field(f"{path}.{name}", f"must be a text of 1 to 200 characters, e.g. {example!r}")


def _check_ids(value: object, path: str) -> None:
    if not isinstance(value, list) or not value or len(value) > MAX_EXPLICIT:
        raise Invalid.field(path, f"must be a list of 1 to {MAX_EXPLICIT} user ids")
    for index, one in enumerate(value):
        if not isinstance(one, str) or not one or len(one) > 200:
            raise Invalid.field(f"{path}[{index}]", "must be a user id of 1 to 200 characters")


def _by_name(what: str, pairs: Iterable[tuple[str, _T]]) -> dict[str, _T]:
    found: dict[str, _T] = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError("packs", f"two packs declare the {what} {name}")
        found[name] = value
    return found


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known)) or 'none'}"
