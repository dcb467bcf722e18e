"""What can be said: categories (the kind of news) and templates (the words)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidings.model.priority import Priority


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of news. Preferences hang on category × channel."""

    code: str
    title: str
    #: cannot be turned off
    mandatory: bool = False
    #: off until the user turns it on
    opt_in: bool = False
    #: most of them a user gets in an hour, counted by themselves; 0 = no limit, None = counted with the others (M18)
    hourly_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Wording:
    """The text of one template in one locale. Each field is a minijinja source."""

    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Template:
    """A code, its category, its default priority and its words per locale (the key `en` must be there)."""

    code: str
    category: str
    priority: Priority
    words: Mapping[str, Wording]
    #: variables a caller may leave out; every other one that a wording uses must be given
    optional: frozenset[str] = frozenset()
    version: int = 1
    #: minijinja source of the path or URL that a click opens, unless the caller gives `actionUrl`
    url: str = "/"
    defaults: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Action:
    """A button on the notification."""

    action: str
    title: str
    #: absolute URL
    navigate: str


@dataclass(frozen=True, slots=True)
class Content:
    """One notification in words, rendered for one locale and time zone."""

    title: str
    body: str
    #: absolute URL a click opens
    url: str
    #: BCP 47 tag of the words
    lang: str
    direction: str = "ltr"
    actions: tuple[Action, ...] = ()
