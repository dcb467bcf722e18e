"""Consent: whether a user receives a category on a channel. Pure; used in planning, preflight check and explain."""

from dataclasses import dataclass

from tidings.model.delivery import SkipReason
from tidings.model.template import Category


@dataclass(frozen=True, slots=True)
class ConsentGranted:
    """A delivery is allowed. `rule` states why, for explain."""

    rule: str


def check_consent(preference: bool | None, category: Category) -> ConsentGranted | SkipReason:
    """Decide from category and preference: mandatory overrides the preference, which overrides the default."""
    if category.mandatory:
        return ConsentGranted("mandatory")
    if preference is False:
        return SkipReason.PREFERENCE_OFF
    if preference:
        return ConsentGranted("turned on by the user")
    return SkipReason.NOT_OPTED_IN if category.opt_in else ConsentGranted("on by default")
