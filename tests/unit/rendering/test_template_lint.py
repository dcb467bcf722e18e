"""The lint keeps the worst finding over the samples and languages of a template."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest

from tidings.channels.email.layout import MAX_HTML_BYTES, MailLayout
from tidings.channels.email.lint import lint_email
from tidings.channels.email.settings import EmailSettings
from tidings.channels.sms.lint import lint_text
from tidings.model.lint import LintFinding, LintLevel, TemplateFinding
from tidings.model.priority import Priority
from tidings.model.template import Category, Template, TemplateText
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.rendering.template_lint import Linter, lint_template

CATEGORY = Category("OFFERS", "Offers")
TEMPLATE = Template(
    "OFFER",
    CATEGORY.code,
    Priority.NORMAL,
    {"en": TemplateText("Hello {{ name }}", "{{ text }}"), "de": TemplateText("Hallo {{ name }}", "{{ text }}")},
    samples=({"name": "Ann", "text": "short"}, {"name": "Ann", "text": "x" * 200}),
)
RENDERER = MinijinjaRenderer({}, "https://shop.example")


def lint(template: Template = TEMPLATE, category: Category = CATEGORY, **linters: Linter) -> Sequence[TemplateFinding]:
    return lint_template(template, category, RENDERER, linters)


def make_sms_linter(*senders: str, plain: bool = False, max_segments: int = 4) -> Linter:
    return partial(lint_text, senders=senders, plain=plain, max_segments=max_segments)


def test_c65_the_worst_case_over_the_samples_is_shown_with_what_causes_it() -> None:
    [found] = lint(sms=make_sms_linter("+16502530000"))
    assert (found.template, found.channel, found.locale) == ("OFFER", "sms", "en")
    assert found.finding.level is LintLevel.INFO
    assert found.finding.message == "2 segments, 210 characters in GSM-7"
    worse = replace(TEMPLATE, samples=(*TEMPLATE.samples, {"name": "Ann", "text": "“" + "x" * 200}))
    [found] = lint(worse, sms=make_sms_linter("+16502530000"))
    assert found.finding.message == ("4 segments, 211 characters in UCS-2 because of '“' (LEFT DOUBLE QUOTATION MARK)")
    [found] = lint(worse, sms=make_sms_linter("+16502530000", plain=True))
    assert found.finding.message == "2 segments, 211 characters in GSM-7"
    [found] = lint(worse, sms=make_sms_linter("+16502530000", max_segments=3))
    assert (found.finding.level, "more than 3" in found.finding.message) == (LintLevel.ERROR, True)


@pytest.mark.parametrize(
    ("sender", "mandatory", "text", "is_refused"),
    [
        ("Acme", False, "Sale", True),
        ("Acme", False, "Sale. Stop: https://shop.example/stop", False),
        ("Acme", True, "Your code is 1234", False),
        ("+16502530000", False, "Sale", False),
        ("24453", False, "Sale", False),
        ("MG" + "0" * 32, False, "Sale", False),
    ],
)
def test_c69_an_optional_sms_from_a_name_needs_a_link_to_opt_out(
    sender: str, mandatory: bool, text: str, is_refused: bool
) -> None:
    template = replace(TEMPLATE, contents={"sms": {"en": {"text": text}}})
    found = lint(template, replace(CATEGORY, mandatory=mandatory), sms=make_sms_linter("+16502530000", sender))
    refused = [one.finding for one in found if one.finding.code == "opt_out_link"]
    assert [one.level for one in refused] == [LintLevel.ERROR] * is_refused
    assert all("OFFERS" in one.message and "Acme" in one.message for one in refused)


@pytest.mark.parametrize(("size", "level"), [(10, LintLevel.INFO), (MAX_HTML_BYTES, LintLevel.WARNING)])
def test_c61_html_that_mail_programs_cut_off_is_found(size: int, level: LintLevel) -> None:
    template = replace(TEMPLATE, samples=({"name": "Ann", "text": "y" * size},))
    [found] = lint(template, email=partial(lint_email, layout=MailLayout(EmailSettings())))
    assert (found.finding.code, found.finding.level) == ("html_size", level)
    assert ("cut off" in found.finding.message) is (level is LintLevel.WARNING)


def test_a_sample_that_cannot_be_rendered_is_an_error_and_a_template_without_samples_has_no_finding() -> None:
    broken: Mapping[str, object] = {"name": "Ann"}
    found = lint(replace(TEMPLATE, samples=(broken,)), sms=make_sms_linter("+16502530000"))
    assert [(one.finding.code, one.finding.level) for one in found] == [("sample", LintLevel.ERROR)]
    assert "template OFFER needs text" in found[0].finding.message
    assert lint(replace(TEMPLATE, samples=()), sms=make_sms_linter("+16502530000")) == []


def test_the_worst_level_goes_before_the_largest_size() -> None:
    def lint_lengths(message: object, _category: object) -> Sequence[LintFinding]:
        size = len(str(message))
        return [LintFinding("size", LintLevel.WARNING if size < 300 else LintLevel.INFO, str(size), size)]

    [found] = lint(any=lint_lengths)
    assert found.finding.level is LintLevel.WARNING
