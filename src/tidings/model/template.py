"""Categories, templates, and the messages rendered from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tidings.model.plan_options import NO_PLAN_OPTIONS, PlanOptions
from tidings.model.priority import Priority

#: highest rate limit per user and hour; the time of each counted notification is stored for an hour
MAX_HOURLY_LIMIT = 10_000
#: code of the built-in template of digests
DIGEST_CODE = "DIGEST"
#: ends the code of a template that is the digest of another
DIGEST_SUFFIX = ".digest"


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of notification. Users turn it on and off with preferences."""

    code: str
    title: str
    #: cannot be turned off: on any channel, or on the channels given
    mandatory: bool | tuple[str, ...] | frozenset[str] = False
    #: off until the user turns it on
    opt_in: bool = False
    #: the category's own rate limit per user and hour; 0 = no limit, None = counted with the other categories
    hourly_limit: int | None = None

    @property
    def is_mandatory_everywhere(self) -> bool:
        """Whether the category cannot be turned off on any channel."""
        return self.mandatory is True

    def is_mandatory(self, channel: str) -> bool:
        """Return whether the category cannot be turned off on a channel."""
        return self.mandatory if isinstance(self.mandatory, bool) else channel in self.mandatory


@dataclass(frozen=True, slots=True)
class TemplateText:
    """The text of a template in one locale. Each field is minijinja source."""

    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Template:
    """A template: code, category, default priority, and the text per locale (`en` is required)."""

    code: str
    category: str
    priority: Priority
    texts: Mapping[str, TemplateText]
    #: variables that a caller may omit; all others used in a text are required
    optional: frozenset[str] = frozenset()
    #: raised when a text changes; older versions may stay declared for notifications that were accepted with them
    version: int = 1
    #: minijinja source of the path or URL that a click opens, unless the request has an `actionUrl`
    url: str = "/"
    defaults: Mapping[str, object] = field(default_factory=dict)
    #: channel → locale → field → minijinja source. Where a channel has none, its message is made from title and body
    contents: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    #: minijinja source of the notification's subject, e.g. `order:{{ orderNumber }}`; None = no subject
    subject: str | None = None
    #: its steps, digest and throttle, unless the request has its own
    plan: PlanOptions = NO_PLAN_OPTIONS
    #: variables of example notifications, also long ones: the lint of `tidings doctor` measures the worst of them
    samples: tuple[Mapping[str, object], ...] = ()
    #: as `texts` and `contents`, for a digest of its notifications: they see `items` and `count`. Without texts, the
    #: built-in template `DIGEST` is used
    digest_texts: Mapping[str, TemplateText] = field(default_factory=dict)
    digest_contents: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)

    @property
    def digest_template(self) -> "Template | None":
        """The template of a digest of its notifications, None if it has no texts of its own for it."""
        if not self.digest_texts:
            return None
        return replace(
            self,
            code=self.code + DIGEST_SUFFIX,
            texts=self.digest_texts,
            contents=self.digest_contents,
            optional=frozenset({"url"}),
            defaults={},
            url="{{ url or '/' }}",
            subject=None,
            plan=NO_PLAN_OPTIONS,
            digest_texts={},
            digest_contents={},
            samples=(),
        )


@dataclass(frozen=True, slots=True)
class MessageAction:
    """A button of a rendered message."""

    action: str
    title: str
    #: absolute URL
    navigate: str


@dataclass(frozen=True, slots=True)
class RenderedMessage:
    """A notification rendered for one locale and time zone."""

    title: str
    body: str
    #: absolute URL that a click opens
    url: str
    #: BCP 47 tag of the text
    lang: str
    direction: str = "ltr"
    actions: tuple[MessageAction, ...] = ()
    #: the channel's own texts: subject, mjml and text of e-mail, text of SMS; empty if the template has none for it
    fields: Mapping[str, str] = field(default_factory=dict)
