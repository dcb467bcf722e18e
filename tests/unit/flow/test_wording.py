"""Templates become words in the reader's language, and cannot do more than that."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tidings.errors import Invalid
from tidings.flow.deliver.renderings import Renderings
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.template import Content, Template, Wording
from tidings.testing.contracts.samples import a_notification
from tidings.wording import MinijinjaWording

NOTIFICATION = replace(a_notification(), action_url=None, action_text=None)


def template(title: str = "{{ title }}", body: str = "", words: Mapping[str, Wording] | None = None) -> Template:
    return Template("NEWS", "NEWS", Priority.HIGH, {"en": Wording(title, body), **(words or {})})


def said(
    template_: Template,
    variables: Mapping[str, object] | None = None,
    *,
    locale: str = "en",
    notification: Notification = NOTIFICATION,
) -> Content:
    wording = MinijinjaWording({"shout": _shout}, "https://shop.example")
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
def test_the_nearest_locale_is_used_and_english_in_the_end(locale: str, title: str, lang: str) -> None:
    words = {"de": Wording("Hallo", ""), "de-CH": Wording("Grüezi", ""), "zh-Hant": Wording("你好", "")}
    content = said(template("Hello", words=words), locale=locale)
    assert (content.title, content.lang, content.direction) == (title, lang, "ltr")


@pytest.mark.parametrize(
    ("locale", "direction"), [("ar-EG", "rtl"), ("he", "rtl"), ("fa", "rtl"), ("ur-PK", "rtl"), ("de", "ltr")]
)
def test_the_direction_is_that_of_the_words(locale: str, direction: str) -> None:
    language = locale.split("-")[0]
    assert said(template("x", words={language: Wording("y", "z")}), locale=locale).direction == direction
    assert said(template("x"), locale=locale).direction == "ltr", "English words are shown to this reader"


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(Invalid, match="needs name, place") as caught:
        said(template("{{ name }}", "{{ place }}"))
    assert [fault.field for fault in caught.value.faults] == ["variables"]


def test_what_a_template_needs_is_known_before() -> None:
    wording = MinijinjaWording({"shout": _shout}, "https://shop.example")
    body, german = "{% for b in c %}{{ b }}{{ d.e }}{% endfor %}{{ range(3) }}", Wording("{{ f }}", "{{ locale }}")
    asked = replace(template("{{ a | shout }}", body, {"de": german}), url="/{{ g }}", optional=frozenset({"f"}))
    assert wording.required(asked) == {"a", "c", "d", "g"}


def test_optional_variables_may_be_left_out_and_defaults_stand_in() -> None:
    asked = replace(template("{{ a }}|{{ b }}"), optional=frozenset({"a", "b"}), defaults={"b": "x"})
    assert said(asked).title == "|x"
    assert said(asked, {"b": "y"}).title == "|y"


def test_filters_get_the_readers_locale_and_time_zone_wherever_they_stand() -> None:
    asked = template("{% for one in many %}{{ one | shout }}{% endfor %}")
    assert said(asked, {"many": ["a"]}, locale="de").title == "A [de, Europe/Zurich]"


def test_a_filter_that_cannot_show_a_value_is_a_fault_of_the_variables() -> None:
    with pytest.raises(Invalid, match="filter shout cannot show 7: not a text") as caught:
        said(template("{{ title | shout }}"), {"title": 7})
    assert [fault.field for fault in caught.value.faults] == ["variables"]


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
    with pytest.raises(Invalid, match="cannot be filled in"):
        said(template(source))


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
def test_a_template_sees_no_insides_of_python_and_no_files(source: str, value: object) -> None:
    with pytest.raises(Invalid):
        said(template(source), {"value": value})


@pytest.mark.parametrize("name", ["self", "source", "name", "state", "locale", "timezone", "loop"])
def test_any_name_may_be_given_to_a_variable(name: str) -> None:
    assert said(template("Hello"), {name: "x"}).title == "Hello"


def test_what_is_given_is_text_and_never_a_template() -> None:
    variables = {"title": "{{ 7 * 7 }} <b>&", "body": "{% raw %}"}
    content = said(template("{{ title }}", "{{ body }}"), variables)
    assert (content.title, content.body) == ("{{ 7 * 7 }} <b>&", "{% raw %}")


def test_a_title_is_one_line_and_a_body_keeps_its_lines() -> None:
    content = said(template("a\n  b\tc", "\n a\nb \n"))
    assert (content.title, content.body) == ("a b c", "a\nb")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/orders/1", "https://shop.example/orders/1"),
        ("https://other.example/x", "https://other.example/x"),
    ],
)
def test_links_are_absolute(url: str, shown: str) -> None:
    assert said(replace(template("x"), url=url)).url == shown
    assert said(template("x"), notification=replace(NOTIFICATION, action_url=url)).url == shown


def test_a_button_opens_the_same_link() -> None:
    content = said(template("x"), notification=replace(NOTIFICATION, action_url="/orders/1", action_text="Look"))
    assert [(action.title, action.navigate) for action in content.actions] == [("Look", content.url)]
    assert said(template("x")).actions == ()


class CountingWording(MinijinjaWording):
    rendered = 0

    def render(self, template: Template, notification: Notification, locale: str, timezone: str) -> Content:
        self.rendered += 1
        return super().render(template, notification, locale, timezone)


def test_words_are_rendered_once_for_all_who_share_them_and_forgotten_in_the_end() -> None:
    wording = CountingWording({}, "https://shop.example")
    renderings = Renderings(wording, {"NEWS": template("Hello")}, size=2)
    for locale, timezone in [("en", "UTC"), ("de", "UTC"), ("en", "UTC"), ("en", "UTC")]:
        assert renderings.content(NOTIFICATION, locale, timezone).title == "Hello"
    assert wording.rendered == 2
    renderings.content(NOTIFICATION, "en", "Europe/Zurich")
    renderings.content(NOTIFICATION, "en", "UTC")
    assert wording.rendered == 3, "the one used last is kept"
    renderings.content(NOTIFICATION, "de", "UTC")
    assert wording.rendered == 4, "the one not used for longest went"


def test_a_template_that_is_gone_is_told() -> None:
    renderings = Renderings(MinijinjaWording({}, "https://shop.example"), {})
    with pytest.raises(Invalid, match="template NEWS is not there any more"):
        renderings.content(NOTIFICATION, "en", "UTC")
