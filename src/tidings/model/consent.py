"""Whether a user wants a kind of news on a channel. Pure, and used twice: when planning and just before sending."""

from dataclasses import dataclass

from tidings.model.delivery import SkipReason
from tidings.model.template import Category


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule that lets a recipient through, in words for explain."""

    text: str


def consent(choice: bool | None, category: Category) -> Rule | SkipReason:
    """Apply category and preference: mandatory beats the user, the user beats the default (API.md, Built-in names)."""
    if category.mandatory:
        return Rule("mandatory")
    if choice is False:
        return SkipReason.PREFERENCE_OFF
    if choice:
        return Rule("turned on by the user")
    return SkipReason.NOT_OPTED_IN if category.opt_in else Rule("on by default")
