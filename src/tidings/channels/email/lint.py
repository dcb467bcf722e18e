"""The lint of e-mails: the size of their HTML."""

from collections.abc import Sequence

from tidings.channels.email.layout import MAX_HTML_BYTES, MailLayout, measure_html
from tidings.model.lint import LintFinding, LintLevel
from tidings.model.template import Category, RenderedMessage


def lint_email(content: RenderedMessage, category: Category, layout: MailLayout) -> Sequence[LintFinding]:
    """Return how large the HTML of a message is. Raises ValidationFailed for invalid MJML."""
    size = measure_html(layout.render(content, category))
    if size > MAX_HTML_BYTES:
        message = f"{size} bytes of HTML: some mail programs, such as Gmail, cut off what exceeds {MAX_HTML_BYTES}"
        return [LintFinding("html_size", LintLevel.WARNING, message, size)]
    return [LintFinding("html_size", LintLevel.INFO, f"{size} bytes of HTML", size)]
