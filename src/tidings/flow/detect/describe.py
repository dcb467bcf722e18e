"""A change in words: `Start: Sun, 22 Nov 2026, 18:00 → 19:30`, one line per field, in the reader's language."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tidings.flow.detect.dates import ARROW, instant, moved
from tidings.flow.detect.places import locale_of
from tidings.model.change import FieldChange, ValueKind

#: texts longer than this are named, not quoted: a notification has room for about four lines
LONGEST_QUOTE = 80


@dataclass(frozen=True, slots=True)
class Words:
    """What one language calls the fields and values of a kind of object."""

    #: field name → label
    labels: Mapping[str, str]
    #: status → what people call it
    statuses: Mapping[str, str]
    #: said of a field whose values are not quoted: `changed`
    changed: str
    #: said where a field has no value: `none`
    nothing: str
    #: the same for single fields: venue → `no venue yet`
    missing: Mapping[str, str] = field(default_factory=dict)
    #: between label and value; French puts a space before it
    colon: str = ": "


def written_changes(fields: tuple[FieldChange, ...], *, longest: int | None = None) -> list[dict[str, str | None]]:
    """Return field changes as JSON values: what templates get as `changes`, and what the API answers.

    longest: characters of a value to keep; None keeps all. Variables of a notification have a size limit, and two
    versions of a long description would break it.
    """
    return [
        {"field": c.field, "kind": c.kind.value, "old": _clipped(c.old, longest), "new": _clipped(c.new, longest)}
        for c in fields
    ]


def describer(
    vocabulary: Mapping[str, Words], *, unquoted: frozenset[str] = frozenset()
) -> Callable[[object, str, str], str]:
    """Return a template filter `described(changes, locale, timezone) -> str`.

    `vocabulary`: language code → words; `en` must be there and is used for any language that is not, with dates in
    the reader's own format all the same. `unquoted`: fields whose values say nothing to people (ids, long texts).

    The filter takes the list that `written_changes` makes and gives one line per field. Text and lists of texts are
    passed through, so that callers may describe a change in their own words. It never raises.
    """
    english = vocabulary["en"]

    def described(value: object, locale: str, timezone: str) -> str:
        if value is None:
            return ""
        words = vocabulary.get(locale_of(locale).language, english)
        changes = value if isinstance(value, list | tuple) else (value,)
        return "\n".join(
            _line(change, words, unquoted, locale, timezone) if isinstance(change, Mapping) else str(change)
            for change in changes
        )

    return described


def _line(change: Mapping[str, object], words: Words, unquoted: frozenset[str], locale: str, timezone: str) -> str:
    name = str(change.get("field") or "")
    label = words.labels.get(name) or _spelled_out(name)
    old, new = change.get("old"), change.get("new")
    if name in unquoted or any(isinstance(v, str) and len(v) > LONGEST_QUOTE for v in (old, new)):
        return label + words.colon + words.changed
    kind = change.get("kind")
    if kind == ValueKind.INSTANT and (both := moved(old, new, locale, timezone)) is not None:
        return label + words.colon + both
    shown = [_shown(value, name, kind, words, locale, timezone) for value in (old, new)]
    return label + words.colon + ARROW.join(shown)


def _shown(value: object, name: str, kind: object, words: Words, locale: str, timezone: str) -> str:
    if value is None:
        return words.missing.get(name, words.nothing)
    if kind == ValueKind.INSTANT:
        return instant(value, locale, timezone)
    if kind == ValueKind.STATUS:
        return words.statuses.get(str(value), str(value))
    return " ".join(str(value).split())


def _spelled_out(name: str) -> str:
    """`doorTime` → `Door time`: a label for a field nobody has named yet."""
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    return spaced[:1].upper() + spaced[1:]


def _clipped(value: str | None, longest: int | None) -> str | None:
    if value is None or longest is None or len(value) <= longest:
        return value
    return value[: longest - 1] + "…"
