"""Turns a template and variables into words for one locale and time zone."""

from typing import Protocol

from tidings.model.notification import Notification
from tidings.model.template import Content, Template


class Wording(Protocol):
    """Renders templates. Pure: no I/O, same input, same words."""

    def required(self, template: Template) -> frozenset[str]:
        """Return the variables that a caller must give."""
        ...

    def render(self, template: Template, notification: Notification, locale: str, timezone: str) -> Content:
        """Return the words. Raises Invalid naming the variable when one is missing or of the wrong shape."""
        ...
