"""Template renderer based on minijinja: sandboxed, limited by fuel, strict about undefined variables.

Templates receive plain data only. A pack's templates can use the pack's filters, which receive the recipient's locale
and time zone (`{{ startDate | instant }}`).
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import urljoin

from minijinja import Environment, TemplateError, pass_state

from tidings.errors import ValidationFailed
from tidings.model.links import validate_link
from tidings.model.notification import Notification
from tidings.model.plan_options import MAX_PLAN_KEY_LENGTH
from tidings.model.template import MessageAction, RenderedMessage, Template, TemplateText
from tidings.ports.pack import TemplateFilter
from tidings.rendering.key_expressions import find_key_problem

#: instructions allowed per rendering; the longest built-in template needs about 300
FUEL = 50_000
FALLBACK_LANGUAGE = "en"
#: fields of contents in which values are escaped as HTML
HTML_FIELDS = frozenset({"mjml", "html"})
_RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "ur", "yi"})
#: variables that the renderer provides, and minijinja's built-in functions
_PROVIDED_VARIABLES = frozenset({"locale", "timezone", "range", "dict", "debug", "namespace"})
_STRING = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
_STRINGS = re.compile(_STRING)
#: text that minijinja does not evaluate
_UNEVALUATED = re.compile(r"\{#.*?#\}|\{%-?\s*raw\s*-?%\}.*?\{%-?\s*endraw\s*-?%\}", re.DOTALL)
#: an expression or a statement
_TAG = re.compile(rf"\{{[{{%](?:{_STRING}|[^\"'])*?[%}}]\}}", re.DOTALL)
_FILTER_NAME = re.compile(r"\|\s*([A-Za-z_]\w*)|^\{%-?\s*filter\s+([A-Za-z_]\w*)")
_TEST_NAME = re.compile(r"\bis\s+(?:not\s+)?([A-Za-z_]\w*)")
#: statements that load another template; there is none
_LOADING_STATEMENT = re.compile(r"^\{%[-+]?\s*(include|import|from|extends)\b")


class MinijinjaRenderer:
    """Implements `ports.renderer.Renderer` and `ports.renderer.Evaluator`."""

    def __init__(self, filters: Mapping[str, TemplateFilter], base_url: str) -> None:
        self._base_url = base_url.rstrip("/") + "/"
        self._environment = Environment(
            undefined_behavior="strict",
            fuel=FUEL,
            auto_escape_callback=lambda name: name.endswith(".html"),
            filters={name: _with_reader_context(name, function) for name, function in filters.items()},
            debug=False,
        )
        self._filter_names = frozenset(filters)
        self._cached_required_variables = lru_cache(maxsize=1024)(self._find_required_variables)

    def required_variables(self, template: Template) -> frozenset[str]:
        return (
            self._cached_required_variables(template.code, template.version, _template_sources(template))
            - template.optional
        )

    def render_subject(self, template: Template, variables: Mapping[str, object]) -> str | None:
        if template.subject is None:
            return None
        context = _build_context(template, variables, FALLBACK_LANGUAGE, "UTC")
        try:
            return self._environment.render_str(template.subject, "subject", **context).strip()
        except TemplateError as error:
            raise ValidationFailed.for_field("variables", self._explain_error(template, variables, error)) from error

    def render_key(self, template: Template, expression: str, variables: Mapping[str, object], field: str) -> str:
        if not expression:
            return ""
        if (problem := find_key_problem(expression, self._filter_names)) is not None:
            raise ValidationFailed.for_field(field, f"{expression!r} {problem}")
        context = _build_context(template, variables, FALLBACK_LANGUAGE, "UTC")
        try:
            if not self._environment.eval_expr(f"({expression}) is defined", **context):
                raise ValidationFailed.for_field(field, f"{expression!r} has no value: give the variables it reads")
            value = self._environment.eval_expr(expression, **context)
        except TemplateError as error:
            raise ValidationFailed.for_field(field, f"{expression!r} cannot be evaluated: {error.message}") from error
        if not isinstance(value, str | int | float):
            raise ValidationFailed.for_field(field, f"{expression!r} must give a text, a number or a boolean")
        key = str(value)
        if not key:
            raise ValidationFailed.for_field(field, f"{expression!r} is empty: give the variables it reads")
        if len(key) > MAX_PLAN_KEY_LENGTH or "\0" in key:
            raise ValidationFailed.for_field(
                field, f"{expression!r} must give at most {MAX_PLAN_KEY_LENGTH} characters, without the character NUL"
            )
        return key

    def render(
        self, template: Template, notification: Notification, locale: str, timezone: str, *, channel: str | None = None
    ) -> RenderedMessage:
        language, text = _choose_text(template, locale)
        context = _build_context(template, notification.variables, locale, timezone)
        try:
            title = self._environment.render_str(text.title, "title", **context)
            body = self._environment.render_str(text.body, "body", **context)
            path = notification.action_url or self._environment.render_str(template.url, "url", **context)
            fields = {
                name: self._environment.render_str(source, _source_name(name), **context)
                for name, source in _choose_fields(template, channel, locale).items()
            }
        except TemplateError as error:
            raise ValidationFailed.for_field(
                "variables", self._explain_error(template, notification.variables, error)
            ) from error
        if (problem := validate_link(path)) is not None:
            raise ValidationFailed.for_field("variables", f"produce the invalid link {path!r:.100}: it {problem}")
        url = urljoin(self._base_url, path)
        actions = (MessageAction("open", notification.action_text, url),) if notification.action_text else ()
        direction = "rtl" if language.split("-")[0] in _RIGHT_TO_LEFT else "ltr"
        return RenderedMessage(_collapse_whitespace(title), body.strip(), url, language, direction, actions, fields)

    def evaluate(self, expression: str, context: Mapping[str, object]) -> object:
        try:
            # the value of a name that does not exist would be None
            if not self._environment.eval_expr(f"({expression}) is defined", **context):
                raise ValidationFailed.for_field("data", f"has not what the trigger reads: {expression}")
            return self._environment.eval_expr(expression, **context)
        except TemplateError as error:
            raise ValidationFailed.for_field("data", f"the trigger's {expression} fails: {error.message}") from error

    def find_error(self, source: str) -> str | None:
        """Return why a text can never be rendered, None if it compiles.

        Found are faults of syntax, and names of filters and tests that do not exist, also in branches that few
        messages reach: minijinja looks them up only when it evaluates them.
        """
        try:
            self._environment.add_template("check", source)
        except TemplateError as error:
            return error.message
        self._environment.remove_template("check")
        for tag in _TAG.findall(_UNEVALUATED.sub("", source)):
            if found := _LOADING_STATEMENT.search(tag):
                return f"{found[1]} is not supported"
            expression = _STRINGS.sub("''", tag)
            for names in _FILTER_NAME.findall(expression):
                name = names[0] or names[1]
                if name not in self._filter_names and self._is_unknown(f"'' | {name}"):
                    return f"unknown filter {name!r}"
            for name in _TEST_NAME.findall(expression):
                if self._is_unknown(f"'' is {name}"):
                    return f"unknown test {name!r}"
        return None

    def _is_unknown(self, expression: str) -> bool:
        try:
            self._environment.eval_expr(expression)
        except TemplateError as error:
            return error.kind in ("UnknownFilter", "UnknownTest")
        return False

    def _find_required_variables(self, _code: str, _version: int, sources: tuple[str, ...]) -> frozenset[str]:
        names: set[str] = set()
        for source in sources:
            names |= self._environment.undeclared_variables_in_str(source)
        return frozenset(names) - _PROVIDED_VARIABLES

    def _explain_error(self, template: Template, variables: Mapping[str, object], error: TemplateError) -> str:
        if missing := sorted(self.required_variables(template) - set(variables) - set(template.defaults)):
            return f"template {template.code} needs {', '.join(missing)}"
        return f"template {template.code} cannot be rendered: {error.message}"


def _build_context(
    template: Template, variables: Mapping[str, object], locale: str, timezone: str
) -> dict[str, object]:
    context = {
        **dict.fromkeys(template.optional, ""),
        **template.defaults,
        **variables,
        "locale": locale,
        "timezone": timezone,
    }
    # `self` is the first parameter of `render_str`, so a variable with this name cannot be passed
    context.pop("self", None)
    return context


def _choose_text(template: Template, locale: str) -> tuple[str, TemplateText]:
    """Return the language and text for a locale: `de-CH`, then `de`, then the fallback (RFC 4647 §3.4)."""
    tag = locale.replace("_", "-")
    while tag:
        if text := template.texts.get(tag):
            return tag, text
        tag = tag.rpartition("-")[0]
    return FALLBACK_LANGUAGE, template.texts[FALLBACK_LANGUAGE]


def _choose_fields(template: Template, channel: str | None, locale: str) -> Mapping[str, str]:
    """Return the texts of a channel for a locale: `de-CH`, then `de`, then the fallback."""
    contents = template.contents.get(channel, {}) if channel is not None else {}
    tag = locale.replace("_", "-")
    while tag and tag not in contents:
        tag = tag.rpartition("-")[0]
    return contents.get(tag or FALLBACK_LANGUAGE, {})


def _source_name(field: str) -> str:
    """Return the name of a source. Values are escaped in sources whose name ends with `.html`."""
    return f"{field}.html" if field in HTML_FIELDS else field


def _template_sources(template: Template) -> tuple[str, ...]:
    return (
        template.url,
        template.subject or "",
        *(
            source
            for by_locale in template.contents.values()
            for fields in by_locale.values()
            for source in fields.values()
        ),
        *(source for text in template.texts.values() for source in (text.title, text.body)),
    )


def _with_reader_context(name: str, function: TemplateFilter) -> Callable[..., str]:
    @pass_state
    def apply_filter(state: object, value: object) -> str:
        lookup = state.lookup  # type: ignore[attr-defined]  # minijinja's State is not typed
        try:
            return function(value, lookup("locale"), lookup("timezone"))
        except Exception as error:  # a failing filter of a pack is reported as a rendering error
            raise ValidationFailed.for_field(
                "variables", f"filter {name} cannot show {value!r:.80}: {error}"
            ) from error

    return apply_filter


def _collapse_whitespace(text: str) -> str:
    # no-break spaces are kept: French has one before a colon
    return re.sub(r"[ \t\r\n]+", " ", text).strip()
