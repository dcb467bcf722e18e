"""Bodies and responses of the preference routes: entries as they are stored, and what follows from them."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from tidings.errors import FieldError, ValidationFailed
from tidings.flow.catalog import Catalog
from tidings.model.consent import evaluate_consent
from tidings.model.preference import ANY, MAX_ENTRIES, Condition, Operator, Preference
from tidings.model.template import Category
from tidings.schemas.field_types import Label, SubjectKey
from tidings.schemas.json_body import RequestModel
from tidings.schemas.response_models import ResponseModel

#: beyond this, JSON numbers are not exact, and neither database nor cache holds them all
_MAX_NUMBER = 2**53
ExactInteger = Annotated[int, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER)]
FiniteNumber = Annotated[float, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER, allow_inf_nan=False)]


class ConditionBody(RequestModel):
    """A comparison with a variable of the notification."""

    variable: Label
    operator: Annotated[Operator, Field(strict=False)]
    value: ExactInteger | FiniteNumber | Label = Field(description="a number of at most 2^53, or a text")


class _EntryBody(RequestModel):
    category: str | None = Field(None, description="default: all categories")
    channel: str | None = Field(None, description="default: all channels")
    object: SubjectKey | None = Field(
        None, description="the subject of notifications, such as event:9, with the subjects below it; default: all"
    )
    condition: ConditionBody | None = Field(
        None, description="with enabled: true, the notification is sent only if it is met"
    )


class PreferenceBody(_EntryBody):
    """One entry."""

    enabled: bool


class PreferenceChange(_EntryBody):
    """One entry to add or change, or to remove."""

    enabled: bool | None = Field(description="null: remove the entry, so that the defaults apply again")


class _EntriesBody(RequestModel):
    @model_validator(mode="before")
    @classmethod
    def _rename_entries(cls, body: object) -> object:
        """Take `entries`, as the documentation calls them, as another name of the field `preferences`."""
        if isinstance(body, dict) and "entries" in body and "preferences" not in body:
            return {("preferences" if name == "entries" else name): value for name, value in body.items()}
        return body


class PreferencesBody(_EntriesBody):
    """All entries of the user. They replace those that are stored."""

    preferences: list[PreferenceBody] = Field(max_length=MAX_ENTRIES)


class PreferencesPatch(_EntriesBody):
    """The entries to change. Others are kept."""

    preferences: list[PreferenceChange] = Field(min_length=1, max_length=MAX_ENTRIES)


class ConditionResponse(ResponseModel):
    """A comparison with a variable of the notification."""

    variable: str
    operator: Annotated[Operator, Field(strict=False)]
    value: int | float | str


class PreferenceResponse(ResponseModel):
    """One stored entry. category, channel, object: null = all."""

    category: str | None
    channel: str | None
    object: str | None = None
    enabled: bool
    condition: ConditionResponse | None = None

    @classmethod
    def from_preference(cls, entry: Preference) -> Self:
        """Return the response for an entry."""
        return cls(
            category=entry.category or None,
            channel=entry.channel or None,
            object=entry.subject or None,
            enabled=entry.enabled,
            condition=entry.condition and ConditionResponse.model_validate(entry.condition),
        )


class CategoryResponse(ResponseModel):
    """One category, and whether the user receives it on each channel."""

    code: str
    title: str
    #: on all channels
    mandatory: bool
    #: channels on which it cannot be turned off: show them as locked
    mandatory_channels: list[str]
    opt_in: bool
    channels: dict[str, bool]
    #: channel → what decides: mandatory, user, installation or category
    decided_by: dict[str, str]


class PreferencesResponse(ResponseModel):
    """All categories, and the entries of the user."""

    categories: list[CategoryResponse]
    preferences: list[PreferenceResponse]


def build_overview(catalog: Catalog, preferences: Sequence[Preference]) -> PreferencesResponse:
    """Return what a user receives by default and by the user's entries. Those for objects change nothing here."""
    return PreferencesResponse(
        categories=[
            _build_category(category, catalog.channels, preferences, catalog.preference_defaults)
            for category in catalog.categories.values()
        ],
        preferences=[PreferenceResponse.from_preference(entry) for entry in preferences],
    )


def _build_category(
    category: Category, channels: Sequence[str], preferences: Sequence[Preference], defaults: Sequence[Preference]
) -> CategoryResponse:
    decisions = {channel: evaluate_consent(category, channel, preferences, defaults=defaults) for channel in channels}
    return CategoryResponse(
        code=category.code,
        title=category.title,
        mandatory=category.is_mandatory_everywhere,
        mandatory_channels=[channel for channel in channels if category.is_mandatory(channel)],
        opt_in=category.opt_in,
        channels={channel: decision.is_granted for channel, decision in decisions.items()},
        decided_by={channel: decision.deciding.source.value for channel, decision in decisions.items()},
    )


def validate_preferences(catalog: Catalog, body: PreferencesBody) -> list[Preference]:
    """Return the entries of a request; the last one of a key counts.

    Raises ValidationFailed for an unknown category or channel, a mandatory category turned off, or a condition on an
    entry that says no.
    """
    _reject_errors(catalog, body.preferences)
    return list({entry.key: entry for entry in map(_to_entry, body.preferences)}.values())


def validate_changes(catalog: Catalog, body: PreferencesPatch) -> tuple[list[Preference], list[Preference]]:
    """Return the entries of a request to store, and those to remove. Raises as `validate_preferences`."""
    _reject_errors(catalog, body.preferences)
    last = {_to_entry(choice).key: choice for choice in body.preferences}
    stored = [_to_entry(choice) for choice in last.values() if choice.enabled is not None]
    return stored, [_to_entry(choice) for choice in last.values() if choice.enabled is None]


def _to_entry(choice: PreferenceBody | PreferenceChange) -> Preference:
    body = choice.condition
    condition = None if body is None else Condition(body.variable, body.operator, body.value)
    enabled = bool(choice.enabled)
    return Preference(choice.category or ANY, choice.channel or ANY, enabled, choice.object or ANY, condition)


def _reject_errors(catalog: Catalog, choices: Sequence[PreferenceBody | PreferenceChange]) -> None:
    errors = [
        FieldError(f"preferences[{number}].{field}", message)
        for number, choice in enumerate(choices)
        for field, message in _find_errors(catalog, choice)
    ]
    if errors:
        raise ValidationFailed.from_errors(errors)


def _find_errors(catalog: Catalog, choice: PreferenceBody | PreferenceChange) -> Iterator[tuple[str, str]]:
    """Yield the wrong fields of an entry, with the fix. Entries to remove may name what is not declared any more."""
    if choice.enabled is None:
        return
    category = None if choice.category is None else catalog.categories.get(choice.category)
    if choice.category is not None and category is None:
        yield "category", f"is not a category; known are: {', '.join(sorted(catalog.categories))}"
    if choice.channel is not None and choice.channel not in catalog.known_channels:
        yield "channel", f"is not a channel; known are: {', '.join(catalog.known_channels)}"
    if category is not None and not choice.enabled and _is_locked(category, choice.channel):
        where = "" if category.is_mandatory_everywhere else f" on {choice.channel}"
        yield "enabled", f"{category.code} is mandatory{where} and cannot be turned off"
    if choice.condition is not None and not choice.enabled:
        yield "condition", "needs enabled: true; state when notifications are wanted, such as amount gte 5"


def _is_locked(category: Category, channel: str | None) -> bool:
    return category.is_mandatory_everywhere if channel is None else category.is_mandatory(channel)
