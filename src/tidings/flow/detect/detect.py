"""old + new + rules → Change. Pure and total: any two mappings have an answer (MISSION M1)."""

import unicodedata

from tidings.flow.detect.instants import as_instant, written
from tidings.flow.detect.rules import Field, Rule, RuleSet, Version
from tidings.model.change import Change, FieldChange, ValueKind


def detect(old: Version, new: Version, rules: RuleSet) -> Change | None:
    """Return what differs between two versions, led by the most important type; None if nothing people would see.

    Both are whole versions: a field that is missing has no value. The same instant in another offset, text that
    differs only in surrounding blanks or Unicode composition, and empty text against none are no changes.
    """
    found: list[tuple[Rule, tuple[FieldChange, ...]]] = []
    claimed: set[str] = set()
    for rule in rules.rules:
        differing = tuple(
            change
            for field in rule.fields
            if field.name not in claimed and (change := _difference(field, old, new)) is not None
        )
        if differing and (rule.when is None or rule.when(old, new)):
            found.append((rule, differing))
            claimed.update(change.field for change in differing)
    if not found:
        return None
    leading = found[0][0]
    return Change(
        type=leading.type,
        types=tuple(rule.type for rule, _ in found),
        fields=tuple(change for _, changes in found for change in changes),
        priority=leading.priority,
        significant=any(rule.significant for rule, _ in found),
    )


def _difference(field: Field, old: Version, new: Version) -> FieldChange | None:
    before = _comparable(old.get(field.name), field.kind)
    after = _comparable(new.get(field.name), field.kind)
    return None if before == after else FieldChange(field.name, field.kind, before, after)


def _comparable(value: object, kind: ValueKind) -> str | None:
    """Return the value as text that is equal exactly when people would call the values equal."""
    if value is None:
        return None
    if kind is ValueKind.INSTANT and (moment := as_instant(value)) is not None:
        return written(moment)
    return unicodedata.normalize("NFC", str(value)).strip() or None
