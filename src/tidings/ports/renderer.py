"""Renders a template with variables for one locale and time zone."""

from collections.abc import Mapping
from typing import Protocol

from tidings.model.notification import Notification
from tidings.model.template import RenderedMessage, Template


class Renderer(Protocol):
    """Renders templates. Pure: no I/O, and the same input gives the same text."""

    def required_variables(self, template: Template) -> frozenset[str]:
        """Return the variables that a caller must give."""
        ...

    def render_subject(self, template: Template, variables: Mapping[str, object]) -> str | None:
        """Return the subject of a notification, None if the template has none.

        Raises ValidationFailed, naming the variable, if one is missing.
        """
        ...

    def render_key(self, template: Template, expression: str, variables: Mapping[str, object], field: str) -> str:
        """Return the value of a digest's or throttle's key, at most 200 characters; empty for an empty expression.

        field: the caller's name of the expression. Raises ValidationFailed naming it if a variable is missing, or if
        the value is not a text, number or boolean.
        """
        ...

    def render(
        self, template: Template, notification: Notification, locale: str, timezone: str, *, channel: str | None = None
    ) -> RenderedMessage:
        """Return the rendered message. channel: also render the texts that the template has for it.

        Raises ValidationFailed, naming the variable, if one is missing or has the wrong type.
        """
        ...


class Evaluator(Protocol):
    """Evaluates expressions, such as those of triggers. Pure."""

    def evaluate(self, expression: str, context: Mapping[str, object]) -> object:
        """Return the value of an expression, JSON values only.

        context: name → value. Raises ValidationFailed naming the expression if it cannot be evaluated, or has no value.
        """
        ...
