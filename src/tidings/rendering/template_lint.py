"""The lint of templates: renders the samples of a template for each channel and language, and keeps the worst. Pure."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from tidings.errors import ValidationFailed
from tidings.model.audience import users
from tidings.model.lint import LintFinding, LintLevel, TemplateFinding
from tidings.model.notification import Notification
from tidings.model.template import Category, RenderedMessage, Template
from tidings.ports.renderer import Renderer

#: returns what a channel finds in a message
Linter: TypeAlias = Callable[[RenderedMessage, Category], Sequence[LintFinding]]

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_LEVELS = tuple(LintLevel)


def lint_template(
    template: Template, category: Category, renderer: Renderer, linters: Mapping[str, Linter]
) -> Sequence[TemplateFinding]:
    """Return the worst finding of each code, by channel. linters: by channel. None without samples.

    A sample that cannot be rendered is a finding too.
    """
    worst: dict[tuple[str, str], TemplateFinding] = {}
    for channel, linter in linters.items():
        for locale in template.texts:
            for variables in template.samples:
                for finding in _lint_sample(template, category, renderer, channel, linter, locale, variables):
                    key = (channel, finding.code)
                    found = TemplateFinding(template.code, channel, locale, finding)
                    if key not in worst or _rank(finding) > _rank(worst[key].finding):
                        worst[key] = found
    return list(worst.values())


def _lint_sample(
    template: Template,
    category: Category,
    renderer: Renderer,
    channel: str,
    linter: Linter,
    locale: str,
    variables: Mapping[str, object],
) -> Sequence[LintFinding]:
    try:
        message = renderer.render(template, _build_notification(template, variables), locale, "UTC", channel=channel)
        return linter(message, category)
    except ValidationFailed as error:
        return [LintFinding("sample", LintLevel.ERROR, f"a sample cannot be rendered: {error.message}")]


def _rank(finding: LintFinding) -> tuple[int, int]:
    return _LEVELS.index(finding.level), finding.size


def _build_notification(template: Template, variables: Mapping[str, object]) -> Notification:
    return Notification(
        id="0" * 32,
        template_code=template.code,
        template_version=template.version,
        category=template.category,
        audience=users("sample"),
        variables=variables,
        priority=template.priority,
        channels=(),
        action_url=None,
        action_text=None,
        send_at=_NOW,
        expires_at=_NOW + timedelta(days=1),
        created_at=_NOW,
    )
