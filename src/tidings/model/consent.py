"""Consent: whether a user receives a category on a channel. Pure; used in planning, preflight check and explain."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from tidings.model.delivery import SkipReason
from tidings.model.notification import DigestPart, Notification
from tidings.model.preference import Preference, PreferenceIndex
from tidings.model.template import Category


class ConsentSource(StrEnum):
    """Who decided, the strongest first."""

    MANDATORY = "mandatory"
    USER = "user"
    INSTALLATION = "installation"
    CATEGORY = "category"


class ConsentEntry(msgspec.Struct, frozen=True):
    """One statement on a category and channel: an entry of the user or of the installation, or a default."""

    source: ConsentSource
    enabled: bool
    #: the entry of the user or the installation
    preference: Preference | None = None
    #: the variable that the entry's condition was compared with
    actual: object = None

    def describe(self) -> str:
        """Return what it says, in words."""
        choice = "on" if self.enabled else "off"
        match self.source:
            case ConsentSource.MANDATORY:
                return "mandatory"
            case ConsentSource.CATEGORY:
                return f"{choice} by default of the category"
            case ConsentSource.USER | ConsentSource.INSTALLATION:
                assert self.preference is not None, "of both sources"
                who = "the user" if self.source is ConsentSource.USER else "the installation"
                return f"{choice} by {who} for {self.preference.describe()}"

    def to_json(self) -> dict[str, object]:
        """Return the entry for responses and recorded decisions."""
        stated: dict[str, object] = {"source": self.source.value}
        if self.preference is not None:
            stated |= self.preference.to_json()
            if self.preference.condition is not None:
                stated["actual"] = _storable(self.actual)
        return stated | {"enabled": self.enabled}


def _storable(value: object) -> object:
    """Shorten a text, and replace NUL, which PostgreSQL rejects."""
    return value[:100].replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


class ConsentDecision(msgspec.Struct, frozen=True):
    """Whether a user receives a category on a channel, with the entry that decided and those that it beat."""

    deciding: ConsentEntry
    #: the strongest first
    beaten: tuple[ConsentEntry, ...] = ()

    @property
    def is_granted(self) -> bool:
        return self.deciding.enabled

    @property
    def rule(self) -> str:
        """Why a delivery is allowed, for explain."""
        return _RULES[self.deciding.source]

    @property
    def granted(self) -> "ConsentGranted":
        """The permission, if consent is granted."""
        return _GRANTED[self.deciding.source]

    @property
    def skip_reason(self) -> SkipReason:
        """Why nothing is sent, if consent is not granted."""
        is_choice = self.deciding.source is ConsentSource.USER
        return SkipReason.PREFERENCE_OFF if is_choice else SkipReason.NOT_OPTED_IN

    def to_json(self) -> dict[str, object]:
        """Return the deciding entry and those it beat, as recorded with skips."""
        return {"entry": self.deciding.to_json(), "beaten": [entry.to_json() for entry in self.beaten]}


class ConsentGranted(msgspec.Struct, frozen=True):
    """A delivery is allowed. `rule` states why, for explain."""

    rule: str


_RULES: Mapping[ConsentSource, str] = {
    ConsentSource.MANDATORY: "mandatory",
    ConsentSource.USER: "turned on by the user",
    ConsentSource.INSTALLATION: "on by default of this installation",
    ConsentSource.CATEGORY: "on by default",
}
_GRANTED: Mapping[ConsentSource, ConsentGranted] = {source: ConsentGranted(rule) for source, rule in _RULES.items()}
_MANDATORY = ConsentEntry(ConsentSource.MANDATORY, True)
_ON, _OFF = ConsentEntry(ConsentSource.CATEGORY, True), ConsentEntry(ConsentSource.CATEGORY, False)
# of users without preferences, who are most
_MANDATORY_DECISION = {False: ConsentDecision(_MANDATORY, (_ON,)), True: ConsentDecision(_MANDATORY, (_OFF,))}
_DEFAULT_DECISION = {False: ConsentDecision(_ON), True: ConsentDecision(_OFF)}


def evaluate_consent(
    category: Category,
    channel: str,
    preferences: Sequence[Preference],
    *,
    defaults: Sequence[Preference] = (),
    subject: str | None = None,
    variables: Mapping[str, object] | None = None,
) -> ConsentDecision:
    """Decide from all entries. The strongest decides: mandatory, user, installation, category.

    preferences, defaults: those of the user and of the installation; entries for others are ignored. subject,
    variables: of the notification; None = of none, so that entries for subjects and with conditions do not apply. Of
    the entries of one source, the one for the most specific subject is the strongest. After it come category and
    channel, category, channel, and everything.
    """
    is_mandatory = category.is_mandatory(channel)
    if not preferences and not defaults:
        return (_MANDATORY_DECISION if is_mandatory else _DEFAULT_DECISION)[category.opt_in]
    default = _OFF if category.opt_in else _ON
    ranked = _rank(ConsentSource.USER, preferences, category.code, channel, subject, variables)
    if defaults:
        ranked += _rank(ConsentSource.INSTALLATION, defaults, category.code, channel, subject, variables)
    if not ranked:
        return (_MANDATORY_DECISION if is_mandatory else _DEFAULT_DECISION)[category.opt_in]
    ranked.append(default)
    if is_mandatory:
        return ConsentDecision(_MANDATORY, tuple(ranked))
    return ConsentDecision(ranked[0], tuple(ranked[1:]))


def find_allowed_parts(
    notification: Notification,
    category: Category,
    channel: str,
    preferences: Sequence[Preference],
    *,
    defaults: Sequence[Preference] = (),
) -> Sequence[DigestPart]:
    """Return the parts of a digest's notification that its user receives on a channel, in their order."""
    return [
        part
        for part, decision in _decide_parts(notification, category, channel, preferences, defaults)
        if decision.is_granted and channel not in part.left_out_on
    ]


def evaluate_notification(
    notification: Notification,
    category: Category,
    channel: str,
    preferences: Sequence[Preference],
    *,
    defaults: Sequence[Preference] = (),
) -> ConsentDecision | None:
    """Decide whether a user receives a notification on a channel.

    A digest is permitted if one of its parts is: the first such decision is returned, or else the first refusal. None
    if consent permits all its parts, but none is shown on the channel.
    """
    if not notification.parts:
        subject, variables = notification.subject, notification.variables
        return evaluate_consent(category, channel, preferences, defaults=defaults, subject=subject, variables=variables)
    refused: ConsentDecision | None = None
    for part, decision in _decide_parts(notification, category, channel, preferences, defaults):
        if not decision.is_granted:
            refused = refused or decision
        elif channel not in part.left_out_on:
            return decision
    return refused


def _decide_parts(
    notification: Notification,
    category: Category,
    channel: str,
    preferences: Sequence[Preference],
    defaults: Sequence[Preference],
) -> Iterator[tuple[DigestPart, ConsentDecision]]:
    """Yield each part of a digest's notification with the decision on it."""
    index = PreferenceIndex(preferences)
    for part in notification.parts:
        entries = index.select(part.subject)
        yield (
            part,
            evaluate_consent(
                category, channel, entries, defaults=defaults, subject=part.subject, variables=part.variables
            ),
        )


def _rank(
    source: ConsentSource,
    preferences: Sequence[Preference],
    category: str,
    channel: str,
    subject: str | None,
    variables: Mapping[str, object] | None,
) -> list[ConsentEntry]:
    """Return the entries of one source that apply, the strongest first."""
    applying = [entry for entry in preferences if entry.is_for(category, channel, subject)]
    if len(applying) > 1:
        applying.sort(key=_strength, reverse=True)
    ranked = []
    for entry in applying:
        if entry.condition is None:
            ranked.append(ConsentEntry(source, entry.enabled, entry))
        elif (is_met := entry.condition.evaluate(variables or {})) is not None:
            actual = (variables or {})[entry.condition.variable]
            ranked.append(ConsentEntry(source, entry.enabled and is_met, entry, actual))
    return ranked


def _strength(entry: Preference) -> tuple[int, bool, bool]:
    return (len(entry.subject), bool(entry.category), bool(entry.channel))
