"""Finds the installed packs, and checks what they bring: texts, settings and migrations."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING

from tidings.config.plugin_settings import list_plugin_settings, load_plugin_settings
from tidings.config.settings import SettingSource
from tidings.errors import ConfigError
from tidings.flow.catalog import Catalog
from tidings.model.channel import ChannelTraits
from tidings.model.preference import Preference
from tidings.model.template import Template
from tidings.model.trigger import EXPRESSION_MARK, Trigger
from tidings.ports.pack import Pack
from tidings.stores.schema.version import MigrationSet

if TYPE_CHECKING:
    from tidings.channels.plugin import ChannelPlugin
    from tidings.rendering.minijinja_renderer import MinijinjaRenderer

#: channels that preferences and notifications can name, besides those of plug-ins
KNOWN_CHANNELS = ("webpush", "email", "sms", "inapp")
#: a language tag as recipients have it (BCP 47); a text under another name would never be chosen
_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


def load_packs() -> list[Pack]:
    """Return the packs of the entry-point group `tidings.packs`, sorted by name. Raises ConfigError naming the pack."""
    packs = []
    for entry in sorted(entry_points(group="tidings.packs"), key=lambda entry: entry.name):
        try:
            pack = entry.load()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError("packs", f"pack {entry.name} ({entry.value}) cannot be loaded: {reason}") from error
        if not isinstance(pack, Pack):
            raise ConfigError("packs", f"entry point {entry.name} ({entry.value}) does not resolve to a Pack")
        packs.append(pack)
    return packs


def load_catalog(
    packs: Sequence[Pack] | None = None,
    *,
    channels: Sequence[str] = (),
    traits: Mapping[str, ChannelTraits] = MappingProxyType({}),
    triggers: Sequence[Trigger] = (),
    preference_defaults: Sequence[Preference] = (),
) -> Catalog:
    """Return the catalog of the packs. Raises ConfigError naming the fault.

    packs: None = the installed ones. channels: the configured channels. traits: of the installed channels. triggers:
    those of the operator. preference_defaults: the entries of the installation.
    """
    found = load_packs() if packs is None else packs
    known = tuple(dict.fromkeys((*KNOWN_CHANNELS, *traits)))
    return Catalog.from_packs(
        found,
        channels=channels,
        known_channels=known,
        traits=traits,
        triggers=triggers,
        preference_defaults=preference_defaults,
    )


def collect_migrations(packs: Sequence[Pack], plugins: Mapping[str, "ChannelPlugin"]) -> list[MigrationSet]:
    """Return the migrations of the packs and of the channels that have some. Raises ConfigError naming the owner."""
    # imported here, because commands that read the database load no channels
    from tidings.channels.plugin import HasMigrations

    of_packs = [MigrationSet.for_pack(pack.name, pack.migrations) for pack in packs if pack.migrations is not None]
    return of_packs + [
        MigrationSet.for_channel(name, plugin.migrations)
        for name, plugin in plugins.items()
        if isinstance(plugin, HasMigrations)
    ]


def list_pack_settings(pack: Pack) -> Sequence[SettingSource]:
    """Return the settings of a pack with their sources, none if it has no settings.

    Raises ConfigError naming the variable and the fix.
    """
    if pack.settings is None:
        return ()
    prefix = f"TIDINGS_{pack.name.upper()}__"
    return list_plugin_settings(load_plugin_settings(pack.settings, prefix), prefix)


def check_texts(packs: Sequence[Pack], renderer: "MinijinjaRenderer") -> None:
    """Compile every text of every template in every language and version.

    Raises ConfigError naming pack, template and locale of each fault. Otherwise the first reader of that language would
    not receive the message.
    """
    faults = [
        f"pack {pack.name}, template {template.code} (version {template.version}), {fault}"
        for pack in packs
        for declared in pack.templates
        for template in (declared, declared.digest_template)
        if template is not None
        for fault in _find_faults(template, renderer)
    ]
    if faults:
        raise ConfigError("packs", "; ".join(faults))


def check_triggers(catalog: Catalog, renderer: "MinijinjaRenderer") -> None:
    """Compile every expression of every trigger. Raises ConfigError naming event type, place and fault of each."""
    faults = [
        f"trigger of {trigger.event_type}: {fault}"
        for triggers in catalog.triggers.values()
        for trigger in triggers
        for fault in _find_trigger_faults(trigger, catalog, renderer)
    ]
    if faults:
        raise ConfigError("packs", "; ".join(faults))


def _find_trigger_faults(trigger: Trigger, catalog: Catalog, renderer: "MinijinjaRenderer") -> Iterator[str]:
    if trigger.template not in catalog.templates:
        yield f"unknown template {trigger.template}; known are {', '.join(sorted(catalog.templates))}"
    expressions = [(f"variable {name}", source) for name, source in trigger.variables.items()]
    expressions += [("audience", source) for source in _list_expressions(trigger.audience)]
    expressions += [("condition", trigger.condition or "true"), ("subject", trigger.subject or "''")]
    for place, expression in expressions:
        if (problem := renderer.find_error(f"{{{{ {expression} }}}}")) is not None:
            yield f"{place}: {expression}: {problem}"


def _list_expressions(value: object) -> Iterator[str]:
    """Yield the expressions of a part of an audience."""
    if isinstance(value, str) and value.startswith(EXPRESSION_MARK):
        yield value.removeprefix(EXPRESSION_MARK)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _list_expressions(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _list_expressions(part)


def _find_faults(template: Template, renderer: "MinijinjaRenderer") -> Iterator[str]:
    sources = [("url", template.url)]
    keys = {"digest": template.plan.digest, "throttle": template.plan.throttle}
    sources += [
        (f"key of the {name}", f"{{{{ {one.key} }}}}") for name, one in keys.items() if one is not None and one.key
    ]
    if template.subject is not None:
        sources.append(("subject", template.subject))
    sources += [
        (f"channel {channel}, locale {locale}, {name}", source)
        for channel, by_locale in template.contents.items()
        for locale, fields in by_locale.items()
        for name, source in fields.items()
    ]
    for locale, text in template.texts.items():
        if not _LANGUAGE_TAG.fullmatch(locale):
            yield f"locale {locale!r}: must be a language tag such as de or pt-BR"
        sources += [(f"locale {locale}, title", text.title), (f"locale {locale}, body", text.body)]
    for place, source in sources:
        if (problem := renderer.find_error(source)) is not None:
            yield f"{place}: {problem}"
