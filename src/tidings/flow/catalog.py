"""The catalog: categories, templates and audience kinds of all packs, validated at the start."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from types import MappingProxyType
from typing import TypeVar, assert_never

from tidings.errors import ConfigError, FieldError, ValidationFailed
from tidings.flow.step_checks import check_steps
from tidings.model.audience import (
    Audience,
    Complement,
    Intersection,
    NamedSet,
    Union,
    from_json,
    list_kinds,
    map_leaves,
    to_json,
)
from tidings.model.channel import DEFAULT_TRAITS, ChannelTraits
from tidings.model.preference import Preference
from tidings.model.template import DIGEST_CODE, DIGEST_SUFFIX, MAX_HOURLY_LIMIT, Category, Template
from tidings.model.trigger import Trigger
from tidings.ports.pack import AudienceKind, Pack, PackRule, TemplateFilter, VariablesFunction

_T = TypeVar("_T")
#: maximum number of explicit user ids in one audience; larger sets need an audience kind of their own
MAX_EXPLICIT_USERS = 10_000
_DEFAULTS_SETTING = "TIDINGS_PREFERENCE_DEFAULTS"


@dataclass(frozen=True, slots=True)
class Catalog:
    """All declarations of the packs and the engine, by name."""

    categories: Mapping[str, Category]
    #: code → the current version
    templates: Mapping[str, Template]
    #: (code, version) → template
    versions: Mapping[tuple[str, int], Template]
    audiences: Mapping[str, AudienceKind]
    filters: Mapping[str, TemplateFilter]
    #: configured channels
    channels: tuple[str, ...]
    #: all installed channels, configured or not
    known_channels: tuple[str, ...]
    #: name → traits of the channels that declare some
    traits: Mapping[str, ChannelTraits] = field(default_factory=dict)
    #: type of a domain event → its triggers
    triggers: Mapping[str, Sequence[Trigger]] = field(default_factory=dict)
    #: entries of the installation, which users override
    preference_defaults: Sequence[Preference] = ()
    #: name → rule of the plan
    rules: Mapping[str, PackRule] = field(default_factory=dict)
    #: name → function that recurring notifications pull variables from
    variable_functions: Mapping[str, VariablesFunction] = field(default_factory=dict)

    @classmethod
    def from_packs(
        cls,
        packs: Sequence[Pack],
        *,
        channels: Sequence[str],
        known_channels: Sequence[str],
        traits: Mapping[str, ChannelTraits] = MappingProxyType({}),
        triggers: Sequence[Trigger] = (),
        preference_defaults: Sequence[Preference] = (),
    ) -> "Catalog":
        """Merge the declarations of packs, and the triggers of the operator.

        Raises ConfigError if two packs declare the same name, a version is declared twice, a rate limit is out of
        range, a template has an unknown category or no English text, or a category or channel of mandatory ones or of
        preference defaults is unknown.
        """
        versions = _index_template_versions(packs)
        catalog = cls(
            categories=_index_by_name("category", ((c.code, c) for pack in packs for c in pack.categories)),
            # sorted by version, so that the highest one is current
            templates={t.code: t for t in sorted(versions.values(), key=lambda t: t.version)},
            versions=versions,
            audiences=_index_by_name("audience kind", ((a.name, a) for pack in packs for a in pack.audiences)),
            filters=_index_by_name("filter", (item for pack in packs for item in pack.filters.items())),
            channels=tuple(channels),
            known_channels=tuple(known_channels),
            traits=traits,
            triggers=_group_by_event_type([*(one for pack in packs for one in pack.triggers), *triggers]),
            preference_defaults=tuple(preference_defaults),
            rules=_index_by_name("rule", (item for pack in packs for item in pack.rules.items())),
            variable_functions=_index_by_name(
                "function of variables", (item for pack in packs for item in pack.variable_functions.items())
            ),
        )
        for category in catalog.categories.values():
            if category.hourly_limit is not None and not 0 <= category.hourly_limit <= MAX_HOURLY_LIMIT:
                raise ConfigError(
                    "packs", f"category {category.code} needs an hourly_limit from 0 to {MAX_HOURLY_LIMIT}"
                )
            if not isinstance(category.mandatory, bool) and (unknown := {*category.mandatory} - {*known_channels}):
                raise ConfigError("packs", f"category {category.code} is mandatory on {sorted(unknown)}, no channel")
        catalog._check_preference_defaults()
        for template in versions.values():
            if template.category not in catalog.categories:
                raise ConfigError("packs", f"template {template.code} has the unknown category {template.category}")
            if (digest := template.plan.digest) is not None and (fault := digest.find_error()) is not None:
                raise ConfigError("packs", f"template {template.code} has a digest that cannot work: {fault}")
            if (fault := template.plan.find_error()) is not None:
                raise ConfigError("packs", f"template {template.code}: the channels of its digest {fault}")
            if errors := check_steps(template.plan.steps, catalog.known_channels, "steps"):
                raise ConfigError("packs", f"template {template.code}: {errors[0].field} {errors[0].message}")
            if "en" not in template.texts:
                raise ConfigError("packs", f"template {template.code} has no English text (locale en)")
        return catalog

    def get_template(self, code: str, version: int | None = None) -> Template:
        """Return a version of a template. The current one is returned for None and for a version that is not declared.

        Raises ValidationFailed for an unknown code, with a suggestion.
        """
        current = self.templates.get(code)
        if current is not None:
            return current if version is None else self.versions.get((code, version), current)
        raise ValidationFailed.for_field(
            "templateCode", f"no template {code!r}{_suggest_nearest(code, self.templates)}", code="unknown_template"
        )

    def get_digest_template(self, code: str) -> Template:
        """Return the current template of digests of a template's notifications: its own, or else the built-in one.

        Raises ValidationFailed if neither exists.
        """
        return self.templates.get(code + DIGEST_SUFFIX) or self.get_template(DIGEST_CODE)

    def get_traits(self, channel: str) -> ChannelTraits:
        """Return the traits of a channel. One whose plug-in is no longer installed has the default traits."""
        return self.traits.get(channel, DEFAULT_TRAITS)

    def get_category(self, code: str) -> Category:
        """Return a category. If its pack is no longer installed, return one with the default rules (on by default)."""
        return self.categories.get(code) or Category(code, code)

    def check_categories(self, setting: str, codes: Iterable[str]) -> None:
        """Raise ConfigError that names the setting if it contains a category that no pack declares."""
        for code in codes:
            if code not in self.categories:
                raise ConfigError(setting, f"no category {code!r}{_suggest_nearest(code, self.categories)}")

    def _check_preference_defaults(self) -> None:
        for entry in self.preference_defaults:
            if entry.category and entry.category not in self.categories:
                hint = _suggest_nearest(entry.category, self.categories)
                raise ConfigError(_DEFAULTS_SETTING, f"no category {entry.category!r}{hint}")
            if entry.channel and entry.channel not in self.known_channels:
                hint = _suggest_nearest(entry.channel, self.known_channels)
                raise ConfigError(_DEFAULTS_SETTING, f"no channel {entry.channel!r}{hint}")

    def check_variables_function(self, name: str, field: str) -> None:
        """Raise ValidationFailed for `field` if no pack has a function of variables with this name."""
        if name not in self.variable_functions:
            hint = _suggest_nearest(name, self.variable_functions)
            raise ValidationFailed.for_field(field, f"no function of variables {name!r}{hint}")

    def has_audience(self, audience: Audience) -> bool:
        """Return whether all kinds of an audience are installed."""
        return list_kinds(audience) <= self.audiences.keys()

    def check_audience(self, audience: Audience, path: str = "audience") -> None:
        """Raise ValidationFailed if a kind is unknown, arguments do not match the kind, or the tree is too large.

        An argument named `category` must be a declared category, and one named `channel` an installed channel.
        """
        from_json(to_json(audience), path=path)  # rejects an audience that could not be read back from the store
        self._check_node(audience, path)

    def pin_audience(self, audience: Audience, now: datetime) -> Audience:
        """Return a checked audience as it is stored: what its kinds derive from the time is fixed."""

        def pin(leaf: NamedSet) -> Audience:
            kind = self.audiences[leaf.kind]
            return leaf if kind.pin is None else NamedSet(leaf.kind, kind.pin(leaf.arguments, now))

        return map_leaves(audience, pin)

    def _check_node(self, audience: Audience, path: str) -> None:
        match audience:
            case NamedSet(kind, arguments):
                self._check_named_set(kind, arguments, path)
            case Union(parts) | Intersection(parts):
                operator = "or" if isinstance(audience, Union) else "and"
                for index, part in enumerate(parts):
                    self._check_node(part, f"{path}.{operator}[{index}]")
            case Complement(part):
                self._check_node(part, f"{path}.not")
            case _:
                assert_never(audience)

    def _check_named_set(self, kind: str, arguments: Mapping[str, object], path: str) -> None:
        declared = self.audiences.get(kind)
        if declared is None:
            raise ValidationFailed.for_field(
                f"{path}.kind", f"no audience kind {kind!r}{_suggest_nearest(kind, self.audiences)}"
            )
        for name in sorted(set(arguments) - set(declared.parameters)):
            raise ValidationFailed.for_field(
                f"{path}.{name}", f"is not a parameter of {kind}{_suggest_nearest(name, declared.parameters)}"
            )
        if declared.validate is not None:
            if errors := declared.validate(arguments):
                raise ValidationFailed.from_errors(
                    [FieldError(f"{path}.{name}", message) for name, message in errors.items()]
                )
        else:
            for name, example in declared.parameters.items():
                _check_argument(name, arguments.get(name), example, path)
        for name, known in (("category", self.categories), ("channel", self.known_channels)):
            value = arguments.get(name)
            if isinstance(value, str) and value not in known:
                raise ValidationFailed.for_field(
                    f"{path}.{name}", f"no {name} {value!r}{_suggest_nearest(value, known)}"
                )


def _group_by_event_type(triggers: Iterable[Trigger]) -> dict[str, list[Trigger]]:
    groups: dict[str, list[Trigger]] = {}
    for trigger in triggers:
        groups.setdefault(trigger.event_type, []).append(trigger)
    return groups


def _check_argument(name: str, value: object, example: str, path: str) -> None:
    if name == "userIds":
        _check_user_ids(value, f"{path}.{name}")
    elif not isinstance(value, str) or not value or len(value) > 200:
        raise ValidationFailed.for_field(f"{path}.{name}", f"must be a string of 1 to 200 characters, e.g. {example!r}")


def _check_user_ids(value: object, path: str) -> None:
    if not isinstance(value, list) or not value or len(value) > MAX_EXPLICIT_USERS:
        raise ValidationFailed.for_field(path, f"must be a list of 1 to {MAX_EXPLICIT_USERS} user ids")
    for index, user_id in enumerate(value):
        if not isinstance(user_id, str) or not user_id or len(user_id) > 200:
            raise ValidationFailed.for_field(f"{path}[{index}]", "must be a user id of 1 to 200 characters")


def _index_template_versions(packs: Sequence[Pack]) -> dict[tuple[str, int], Template]:
    """Return every version of every template. A pack may declare old versions beside the current one."""
    # checks that no template code is declared by two packs
    _index_by_name("template", ((code, code) for pack in packs for code in {t.code for t in pack.templates}))
    versions: dict[tuple[str, int], Template] = {}
    declared = [template for pack in packs for template in pack.templates]
    for template in (*declared, *(digest for one in declared if (digest := one.digest_template) is not None)):
        key = (template.code, template.version)
        if key in versions:
            raise ConfigError("packs", f"version {template.version} of template {template.code} is declared twice")
        versions[key] = template
    return versions


def _index_by_name(label: str, pairs: Iterable[tuple[str, _T]]) -> dict[str, _T]:
    index: dict[str, _T] = {}
    for name, value in pairs:
        if name in index:
            raise ConfigError("packs", f"two packs declare the {label} {name}")
        index[name] = value
    return index


def _suggest_nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known)) or 'none'}"
