"""Detects the change between two versions of an object. Pure, and defined for any two mappings."""

import unicodedata

from tidings.changes.rules import ChangeRule, ChangeRuleSet, ObjectVersion, WatchedField
from tidings.localization.instants import format_utc_instant, to_instant
from tidings.model.change import Change, FieldChange, ValueKind


def detect(old: ObjectVersion, new: ObjectVersion, rules: ChangeRuleSet) -> Change | None:
    """Return the change between two versions, named after its most important type; None if there is no visible change.

    Both versions are complete: a missing field has no value. The following are not changes: the same instant with
    another offset, text that differs only in surrounding blanks or Unicode composition, empty text instead of none.
    """
    matches: list[tuple[ChangeRule, tuple[FieldChange, ...]]] = []
    claimed: set[str] = set()
    for rule in rules.rules:
        differing = tuple(
            change
            for field in rule.fields
            if field.name not in claimed and (change := _diff_field(field, old, new)) is not None
        )
        if differing and (rule.condition is None or rule.condition(old, new)):
            matches.append((rule, differing))
            claimed.update(change.field for change in differing)
    if not matches:
        return None
    leading = matches[0][0]
    return Change(
        type=leading.type,
        types=tuple(rule.type for rule, _ in matches),
        fields=tuple(change for _, changes in matches for change in changes),
        priority=leading.priority,
        is_significant=any(rule.is_significant for rule, _ in matches),
    )


def _diff_field(field: WatchedField, old: ObjectVersion, new: ObjectVersion) -> FieldChange | None:
    before = _normalize(old.get(field.name), field.kind)
    after = _normalize(new.get(field.name), field.kind)
    return None if before == after else FieldChange(field.name, field.kind, before, after)


def _normalize(value: object, kind: ValueKind) -> str | None:
    """Return the value as text, so that values that look equal to users are equal."""
    if value is None:
        return None
    if kind is ValueKind.INSTANT and (moment := to_instant(value)) is not None:
        return format_utc_instant(moment)
    return unicodedata.normalize("NFC", str(value)).strip() or None
