"""The render cache: recipients of a notification with the same locale and time zone share one rendered message."""

from typing import Protocol

import structlog
from cachetools import LRUCache

from tidings.model.notification import Notification
from tidings.model.template import RenderedMessage, Template
from tidings.ports.renderer import Renderer

log = structlog.get_logger(__name__)


class Templates(Protocol):
    """Looks up templates; implemented by the catalog."""

    def get_template(self, code: str, version: int | None = None) -> Template:
        """Return a version, or the current one if it is unknown. Raises ValidationFailed for an unknown code."""
        ...


class RenderCache:
    """A bounded LRU cache in front of the renderer: by notification, template version, channel, locale and zone."""

    def __init__(self, renderer: Renderer, templates: Templates, max_entries: int = 2_000) -> None:
        self._renderer = renderer
        self._templates = templates
        self._entries: LRUCache[tuple[str, int, str, str, str], RenderedMessage] = LRUCache(max_entries)
        #: (code, version) pairs that were logged as missing
        self._missing: set[tuple[str, int]] = set()

    def get_or_render(self, notification: Notification, channel: str, locale: str, timezone: str) -> RenderedMessage:
        """Return the rendered message for a channel, in the template version with which the notification was accepted.

        If that version is no longer declared, the current one is used and a warning is logged once. Raises
        ValidationFailed if the template no longer exists or cannot be rendered.
        """
        template = self._get_template(notification)
        if notification.parts:
            # a digest goes to one user, and says what that user receives on the channel now
            return self._renderer.render(template, notification, locale, timezone, channel=channel)
        key = (notification.id, template.version, channel, locale, timezone)
        if (cached := self._entries.get(key)) is not None:
            return cached
        content = self._entries[key] = self._renderer.render(template, notification, locale, timezone, channel=channel)
        return content

    def _get_template(self, notification: Notification) -> Template:
        code, version = notification.template_code, notification.template_version
        template = self._templates.get_template(code, version)
        if template.version != version and (code, version) not in self._missing:
            self._missing.add((code, version))
            log.warning("template_version_missing", template=code, version=version, rendered=template.version)
        return template
