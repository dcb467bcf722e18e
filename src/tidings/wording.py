"""Words from templates, by minijinja: sandboxed, with fuel, strict about what is missing.

The environment gets plain data only. A template of a pack may use its pack's filters, which receive the reader's
locale and time zone (`{{ startDate | instant }}`).
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import urljoin

from minijinja import Environment, TemplateError, pass_state

from tidings.errors import Invalid
from tidings.model.links import fault_of_link
from tidings.model.notification import Notification
from tidings.model.template import Action, Content, Template
from tidings.model.template import Wording as Words
from tidings.ports.pack import Filter

#: instructions one rendering may take; the longest built-in template takes about 300
FUEL = 50_000
FALLBACK = "en"
_RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "ur", "yi"})
#: what the renderer itself provides, and minijinja's own functions
_PROVIDED = frozenset({"locale", "timezone", "range", "dict", "debug", "namespace"})


class MinijinjaWording:
    """Implements `ports.wording.Wording`."""

    def __init__(self, filters: Mapping[str, Filter], base_url: str) -> None:
        self._base_url = base_url.rstrip("/") + "/"
        self._environment = Environment(
            undefined_behavior="strict",
            fuel=FUEL,
            auto_escape_callback=lambda _name: False,
            filters={name: _localised(name, function) for name, function in filters.items()},
            debug=False,
        )
        self._required = lru_cache(maxsize=1024)(self._find_required)

    def required(self, template: Template) -> frozenset[str]:
        return self._required(template.code, template.version, _sources(template)) - template.optional

    def render(self, template: Template, notification: Notification, locale: str, timezone: str) -> Content:
        lang, words = _chosen(template, locale)
        context = {
            **dict.fromkeys(template.optional, ""),
            **template.defaults,
            **notification.variables,
            "locale": locale,
            "timezone": timezone,
        }
        # the renderer's own first parameter: a variable of that name could not be passed
        context.pop("self", None)
        try:
            title = self._environment.render_str(words.title, "title", **context)
            body = self._environment.render_str(words.body, "body", **context)
            path = notification.action_url or self._environment.render_str(template.url, "url", **context)
        except TemplateError as error:
            raise Invalid.field("variables", self._explained(template, notification, error)) from error
        if (wrong := fault_of_link(path)) is not None:
            raise Invalid.field("variables", f"make the link {path!r:.100}, which {wrong}")
        url = urljoin(self._base_url, path)
        actions = (Action("open", notification.action_text, url),) if notification.action_text else ()
        direction = "rtl" if lang.split("-")[0] in _RIGHT_TO_LEFT else "ltr"
        return Content(_one_line(title), body.strip(), url, lang, direction, actions)

    def _find_required(self, _code: str, _version: int, sources: tuple[str, ...]) -> frozenset[str]:
        found: set[str] = set()
        for source in sources:
            found |= self._environment.undeclared_variables_in_str(source)
        return frozenset(found) - _PROVIDED

    def _explained(self, template: Template, notification: Notification, error: TemplateError) -> str:
        if missing := sorted(self.required(template) - set(notification.variables) - set(template.defaults)):
            return f"template {template.code} needs {', '.join(missing)}"
        return f"template {template.code} cannot be filled in: {error.message}"


def _chosen(template: Template, locale: str) -> tuple[str, Words]:
    """Return the language and words that fit a locale best: `de-CH`, then `de`, then the fallback (RFC 4647 §3.4)."""
    tag = locale.replace("_", "-")
    while tag:
        if words := template.words.get(tag):
            return tag, words
        tag = tag.rpartition("-")[0]
    return FALLBACK, template.words[FALLBACK]


def _sources(template: Template) -> tuple[str, ...]:
    return (template.url, *(source for words in template.words.values() for source in (words.title, words.body)))


def _localised(name: str, function: Filter) -> Callable[..., str]:
    @pass_state
    def with_reader(state: object, value: object) -> str:
        lookup = state.lookup  # type: ignore[attr-defined]  # minijinja's State is not typed
        try:
            return function(value, lookup("locale"), lookup("timezone"))
        except Exception as error:  # a pack's filter that cannot show this value is a template that cannot be filled in
            raise Invalid.field("variables", f"filter {name} cannot show {value!r:.80}: {error}") from error

    return with_reader


def _one_line(text: str) -> str:
    # no-break spaces stay: French puts them before a colon
    return re.sub(r"[ \t\r\n]+", " ", text).strip()
