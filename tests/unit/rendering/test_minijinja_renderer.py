"""Templates are rendered in the reader's language, in a sandbox."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from tidings.errors import ValidationFailed
from tidings.flow.catalog import Catalog
from tidings.flow.deliver.render_cache import RenderCache
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage, Template, TemplateText
from tidings.ports.pack import Pack
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.testing.contracts.samples import make_notification

NOTIFICATION = replace(make_notification(), action_url=None, action_text=None)


def template(title: str = "{{ title }}", body: str = "", words: Mapping[str, TemplateText] | None = None) -> Template:
    return Template("NEWS", "NEWS", Priority.HIGH, {"en": TemplateText(title, body), **(words or {})})


def render(
    template_: Template,
    variables: Mapping[str, object] | None = None,
    *,
    locale: str = "en",
    notification: Notification = NOTIFICATION,
) -> RenderedMessage:
    wording = MinijinjaRenderer({"shout": _shout}, "https://shop.example")
    return wording.render(template_, replace(notification, variables=variables or {}), locale, "Europe/Zurich")


def _shout(value: object, locale: str, timezone: str) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return f"{value.upper()} [{locale}, {timezone}]"


@pytest.mark.parametrize(
    ("locale", "title", "lang"),
    [
        ("de-CH", "Grüezi", "de-CH"),
        ("de-AT", "Hallo", "de"),
        ("de", "Hallo", "de"),
        ("de_DE", "Hallo", "de"),
        ("zh-Hant-TW", "你好", "zh-Hant"),
        ("zh", "Hello", "en"),
        ("fr-CH", "Hello", "en"),
        ("", "Hello", "en"),
    ],
)
def test_the_nearest_locale_is_used_and_english_as_fallback(locale: str, title: str, lang: str) -> None:
    words = {"de": TemplateText("Hallo", ""), "de-CH": TemplateText("Grüezi", ""), "zh-Hant": TemplateText("你好", "")}
    content = render(template("Hello", words=words), locale=locale)
    assert (content.title, content.lang, content.direction) == (title, lang, "ltr")


@pytest.mark.parametrize(
    ("locale", "direction"), [("ar-EG", "rtl"), ("he", "rtl"), ("fa", "rtl"), ("ur-PK", "rtl"), ("de", "ltr")]
)
def test_the_direction_is_that_of_the_words(locale: str, direction: str) -> None:
    language = locale.split("-")[0]
    assert render(template("x", words={language: TemplateText("y", "z")}), locale=locale).direction == direction
    assert render(template("x"), locale=locale).direction == "ltr", "English words are shown to this reader"


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(ValidationFailed, match="needs name, place") as caught:
        render(template("{{ name }}", "{{ place }}"))
    assert [error.field for error in caught.value.field_errors] == ["variables"]


def test_required_variables_are_known_before_rendering() -> None:
    wording = MinijinjaRenderer({"shout": _shout}, "https://shop.example")
    body, german = "{% for b in c %}{{ b }}{{ d.e }}{% endfor %}{{ range(3) }}", TemplateText("{{ f }}", "{{ locale }}")
    asked = replace(template("{{ a | shout }}", body, {"de": german}), url="/{{ g }}", optional=frozenset({"f"}))
    assert wording.required_variables(asked) == {"a", "c", "d", "g"}


def test_optional_variables_may_be_omitted_and_defaults_apply() -> None:
    asked = replace(template("{{ a }}|{{ b }}"), optional=frozenset({"a", "b"}), defaults={"b": "x"})
    assert render(asked).title == "|x"
    assert render(asked, {"b": "y"}).title == "|y"


def test_filters_get_the_readers_locale_and_time_zone_everywhere() -> None:
    asked = template("{% for one in many %}{{ one | shout }}{% endfor %}")
    assert render(asked, {"many": ["a"]}, locale="de").title == "A [de, Europe/Zurich]"


def test_a_failing_filter_is_an_error_of_the_variables() -> None:
    with pytest.raises(ValidationFailed, match="filter shout cannot show 7: not a text") as caught:
        render(template("{{ title | shout }}"), {"title": 7})
    assert [error.field for error in caught.value.field_errors] == ["variables"]


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ range(1000000000) | length }}",
        "{{ 'x' * 2000000000 }}",
        "{{ 10 ** 1000000 }}",
    ],
    ids=["loops", "recursion", "range", "repetition", "power"],
)
def test_a_template_cannot_run_for_long(source: str) -> None:
    with pytest.raises(ValidationFailed, match="cannot be rendered"):
        render(template(source))


@pytest.mark.parametrize(
    "source",
    [
        "{{ value.__class__ }}",
        "{{ value.__init__.__globals__ }}",
        "{{ value['__class__'] }}",
        "{{ value | attr('__class__') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ value.__class__.__base__.__subclasses__() }}",
        "{% include 'secrets' %}",
        "{% import 'os' as os %}",
        "{{ self }}",
    ],
)
@pytest.mark.parametrize("value", ["text", {"key": 1}, [1]])
def test_a_template_has_no_access_to_python_internals_or_files(source: str, value: object) -> None:
    with pytest.raises(ValidationFailed):
        render(template(source), {"value": value})


@pytest.mark.parametrize("name", ["self", "source", "name", "state", "locale", "timezone", "loop"])
def test_any_name_may_be_given_to_a_variable(name: str) -> None:
    assert render(template("Hello"), {name: "x"}).title == "Hello"


def test_variables_are_never_evaluated_as_templates() -> None:
    variables = {"title": "{{ 7 * 7 }} <b>&", "body": "{% raw %}"}
    content = render(template("{{ title }}", "{{ body }}"), variables)
    assert (content.title, content.body) == ("{{ 7 * 7 }} <b>&", "{% raw %}")


def test_a_title_is_one_line_and_a_body_keeps_its_lines() -> None:
    content = render(template("a\n  b\tc", "\n a\nb \n"))
    assert (content.title, content.body) == ("a b c", "a\nb")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/orders/1", "https://shop.example/orders/1"),
        ("https://other.example/x", "https://other.example/x"),
    ],
)
def test_links_are_absolute(url: str, shown: str) -> None:
    assert render(replace(template("x"), url=url)).url == shown
    assert render(template("x"), notification=replace(NOTIFICATION, action_url=url)).url == shown


def test_a_button_opens_the_same_link() -> None:
    content = render(template("x"), notification=replace(NOTIFICATION, action_url="/orders/1", action_text="Look"))
    assert [(action.title, action.navigate) for action in content.actions] == [("Look", content.url)]
    assert render(template("x")).actions == ()


class CountingRenderer(MinijinjaRenderer):
    rendered = 0

    def render(
        self, template: Template, notification: Notification, locale: str, timezone: str, *, channel: str | None = None
    ) -> RenderedMessage:
        self.rendered += 1
        return super().render(template, notification, locale, timezone, channel=channel)


def test_shared_content_is_rendered_once_and_evicted_later() -> None:
    wording = CountingRenderer({}, "https://shop.example")
    renderings = RenderCache(wording, declared(template("Hello")), max_entries=2)
    for locale, timezone in [("en", "UTC"), ("de", "UTC"), ("en", "UTC"), ("en", "UTC")]:
        assert renderings.get_or_render(NOTIFICATION, "webpush", locale, timezone).title == "Hello"
    assert wording.rendered == 2
    renderings.get_or_render(NOTIFICATION, "webpush", "en", "Europe/Zurich")
    renderings.get_or_render(NOTIFICATION, "webpush", "en", "UTC")
    assert wording.rendered == 3, "the one used last is kept"
    renderings.get_or_render(NOTIFICATION, "webpush", "de", "UTC")
    assert wording.rendered == 4, "the one not used for longest went"


def declared(*templates: Template) -> Catalog:
    pack = Pack("news", categories=(Category("NEWS", "News"),), templates=templates)
    return Catalog.from_packs([pack], channels=(), known_channels=())


def test_a_missing_template_is_reported() -> None:
    renderings = RenderCache(MinijinjaRenderer({}, "https://shop.example"), declared())
    with pytest.raises(ValidationFailed, match="no template 'NEWS'"):
        renderings.get_or_render(NOTIFICATION, "webpush", "en", "UTC")


def test_a_notification_is_rendered_in_the_version_it_was_accepted_with() -> None:
    wording = CountingRenderer({}, "https://shop.example")
    renderings = RenderCache(wording, declared(template("Old"), replace(template("New"), version=2)))
    newer = replace(NOTIFICATION, template_version=2)
    with capture_logs() as logs:
        said_now = [
            renderings.get_or_render(one, "webpush", "en", "UTC").title
            for one in (NOTIFICATION, newer, NOTIFICATION, newer)
        ]
    assert said_now == ["Old", "New", "Old", "New"], "the cache tells versions apart"
    assert wording.rendered == 2
    assert logs == []


def test_an_undeclared_version_is_replaced_by_the_current_one_with_a_warning() -> None:
    current = replace(template("New"), version=2)
    renderings = RenderCache(MinijinjaRenderer({}, "https://shop.example"), declared(current))
    with capture_logs() as logs:
        for _ in range(3):
            assert renderings.get_or_render(NOTIFICATION, "webpush", "en", "UTC").title == "New"
    event = {"event": "template_version_missing", "template": "NEWS", "version": 1, "rendered": 2}
    assert logs == [{**event, "log_level": "warning"}]


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{{ title", "syntax error"),
        ("{% if late %}late", "syntax error"),
        ("{{ title | shuot }}", "unknown filter 'shuot'"),
        ("{% if late %}{{ title | shuot }}{% endif %}", "unknown filter 'shuot'"),
        ("{% filter shuot %}x{% endfilter %}", "unknown filter 'shuot'"),
        ("{% if title is shuot %}x{% endif %}", "unknown test 'shuot'"),
        ("{% include 'footer' %}", "include is not supported"),
        ("{{ '}}' | shuot }}", "unknown filter 'shuot'"),
    ],
)
def test_a_text_that_can_never_be_rendered_is_found_without_variables(source: str, fault: str) -> None:
    renderer = MinijinjaRenderer({"shout": _shout}, "https://shop.example")
    assert fault in str(renderer.find_error(source))


@pytest.mark.parametrize(
    "source",
    [
        "",
        "l'événement | isn't {{ title | shout | upper }}",
        "{# {{ x | shuot }} #}{% raw %}{{ x | shuot }}{% endraw %}",
        "{{ 'a | shuot' }}{{ \"is shuot\" }}",
        "{% if title is defined and count is not divisibleby(2) %}{{ count | default('x') }}{% endif %}",
        "{%- for item in items -%}{{ loop.index }}. {{ item | replace('|', '/') }}{%- endfor -%}",
    ],
)
def test_a_correct_text_has_no_fault(source: str) -> None:
    assert MinijinjaRenderer({"shout": _shout}, "https://shop.example").find_error(source) is None


@pytest.mark.parametrize(
    ("expression", "key"),
    [
        ("", ""),
        ("eventId", "e-1"),
        ("eventId ~ ':' ~ row", "e-1:7"),
        ("row", "7"),
        ("order.id", "o-9"),
        ("eventId | upper ~ '*(range(1))|join'", "E-1*(range(1))|join"),
        ("note | default('none', true) if not (row > 7) else (row | int)", "none"),
        ("eventId[:1] if row in (7, 8) and (row) else 0", "e"),
    ],
)
def test_a_key_is_an_expression_over_the_variables(expression: str, key: str) -> None:
    variables = {"eventId": "e-1", "row": 7, "order": {"id": "o-9"}}
    assert _render_key(expression, variables) == key


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("eventId", "has no value"),
        ("order.id", "has no value"),
        ("row.id", "has no value"),
        ("eventId ~ ':'", "cannot be evaluated"),
        ("note", "is empty"),
        ("lines", "must give a text"),
        ("nothing", "must give a text"),
        ("long", "at most 200 characters"),
        ("nul", "without the character NUL"),
        ("(", "cannot be evaluated"),
        ('["a"] * 100000000', "must not multiply"),
        ("row ** 2", "must not multiply"),
        ("([[1]])|tojson|length", "must not use the filter tojson; known are: abs"),
        ("long | replace('x', long)", "must not use the filter replace"),
        ("long.replace('x', long)", "must not call functions"),
        ("range(9)|last", "must not call functions"),
        ("lines[0]('x')", "must not call functions"),
    ],
)
def test_c36_a_key_without_a_usable_value_is_refused(expression: str, problem: str) -> None:
    variables = {"row": 7, "lines": [1], "nothing": None, "long": "x" * 201, "nul": "a\0", "order": {}}
    with pytest.raises(ValidationFailed) as caught:
        _render_key(expression, variables)
    [error] = caught.value.field_errors
    assert error.field == "options.digest.key"
    assert problem in error.message


def _render_key(expression: str, variables: Mapping[str, object]) -> str:
    renderer = MinijinjaRenderer({}, "https://shop.example")
    keyed = replace(template(), optional=frozenset({"note"}))
    return renderer.render_key(keyed, expression, variables, "options.digest.key")
