"""Formats changes as text, one line per field: `Start: Sun, 22 Nov 2026, 18:00 → 19:30`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tidings.localization.dates import ARROW, format_instant_change, format_local_instant
from tidings.localization.locale_and_zone import find_locale
from tidings.model.change import FieldChange, ValueKind

#: longer texts are not shown, only named as changed: a notification has about four lines
MAX_QUOTE_LENGTH = 80


@dataclass(frozen=True, slots=True)
class FieldTranslations:
    """The names of the fields and values of a kind of object in one language."""

    #: field name → label
    labels: Mapping[str, str]
    #: status → display name
    statuses: Mapping[str, str]
    #: text for a field whose values are not shown: `changed`
    changed_text: str
    #: text for a missing value: `none`
    no_value_text: str
    #: field name → text for its missing value: venue → `no venue yet`
    missing_texts: Mapping[str, str] = field(default_factory=dict)
    #: between label and value; French has a space before it
    colon: str = ": "


def serialize_changes(fields: tuple[FieldChange, ...], *, max_length: int | None = None) -> list[dict[str, str | None]]:
    """Return field changes as JSON values, for the template variable `changes` and for API responses.

    `max_length`: characters of a value to keep; None keeps all. The variables of a notification have a size limit,
    which two versions of a long description would exceed.
    """
    return [
        {
            "field": change.field,
            "kind": change.kind.value,
            "old": _truncate(change.old, max_length),
            "new": _truncate(change.new, max_length),
        }
        for change in fields
    ]


def make_change_formatter(
    translations: Mapping[str, FieldTranslations], *, unquoted_fields: frozenset[str] = frozenset()
) -> Callable[[object, str, str], str]:
    """Return a template filter `format_changes(changes, locale, timezone) -> str`.

    `translations`: language code → translations. It must have `en`, which is used for languages that are missing;
    dates still have the format of the recipient's locale. `unquoted_fields`: fields whose values are not shown (ids,
    long texts).

    The filter takes the list that `serialize_changes` returns and gives one line per field. Text and lists of texts
    are passed through, so that callers can describe a change themselves. It never raises.
    """
    english = translations["en"]

    def format_changes(value: object, locale: str, timezone: str) -> str:
        if value is None:
            return ""
        texts = translations.get(find_locale(locale).language, english)
        changes = value if isinstance(value, list | tuple) else (value,)
        return "\n".join(
            _format_line(change, texts, unquoted_fields, locale, timezone)
            if isinstance(change, Mapping)
            else str(change)
            for change in changes
        )

    return format_changes


def _format_line(
    change: Mapping[str, object],
    translations: FieldTranslations,
    unquoted_fields: frozenset[str],
    locale: str,
    timezone: str,
) -> str:
    name = str(change.get("field") or "")
    label = translations.labels.get(name) or _humanize_name(name)
    old, new = change.get("old"), change.get("new")
    if name in unquoted_fields or any(isinstance(v, str) and len(v) > MAX_QUOTE_LENGTH for v in (old, new)):
        return label + translations.colon + translations.changed_text
    kind = change.get("kind")
    if kind == ValueKind.INSTANT and (times := format_instant_change(old, new, locale, timezone)) is not None:
        return label + translations.colon + times
    shown = [_format_value(value, name, kind, translations, locale, timezone) for value in (old, new)]
    return label + translations.colon + ARROW.join(shown)


def _format_value(
    value: object, name: str, kind: object, translations: FieldTranslations, locale: str, timezone: str
) -> str:
    if value is None:
        return translations.missing_texts.get(name, translations.no_value_text)
    if kind == ValueKind.INSTANT:
        return format_local_instant(value, locale, timezone)
    if kind == ValueKind.STATUS:
        return translations.statuses.get(str(value), str(value))
    return " ".join(str(value).split())


def _humanize_name(name: str) -> str:
    """Return the label of a field without translation: `doorTime` → `Door time`."""
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    return spaced[:1].upper() + spaced[1:]


def _truncate(value: str | None, max_length: int | None) -> str | None:
    if value is None or max_length is None or len(value) <= max_length:
        return value
    return value[: max_length - 1] + "…"
