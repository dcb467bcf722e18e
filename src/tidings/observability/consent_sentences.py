"""Sentences about the preference for which nothing was sent, as it was recorded with the skip. Pure."""

from collections.abc import Mapping

from tidings.model.consent import ConsentSource


def describe_opt_out(detail: Mapping[str, object], user_id: str, category: str, channel: str) -> str:
    """Return what the user turned off. detail: of the skip. category, channel: of what was not sent."""
    entry = _get_entry(detail)
    scope = _describe_scope(entry, category, channel)
    condition = entry.get("condition")
    if not isinstance(condition, Mapping):
        return f"{user_id} turned off {scope}"
    required = f"{condition['variable']} {condition['operator']} {condition['value']!r}"
    return f"{user_id} turned on {scope} only if {required}, and it was {entry.get('actual')!r}"


def describe_default(detail: Mapping[str, object], category: str, channel: str) -> str:
    """Return which default was against a message that the user had not turned on. Arguments: as above."""
    entry = _get_entry(detail)
    if entry.get("source") == ConsentSource.INSTALLATION:
        return f"the installation turned off {_describe_scope(entry, category, channel)}"
    return f"{category} is opt-in"


def _get_entry(detail: Mapping[str, object]) -> Mapping[str, object]:
    """Return the entry that decided, empty if none was recorded."""
    entry = detail.get("entry")
    return entry if isinstance(entry, Mapping) else {}


def _describe_scope(entry: Mapping[str, object], category: str, channel: str) -> str:
    name = entry.get("category", "everything") if entry else category
    about = f" about {entry['object']}" if "object" in entry else ""
    return f"{name}{about} on {channel}"
