"""Words rendered once per notification × locale × time zone, however many recipients share them."""

from collections import OrderedDict
from collections.abc import Mapping

from tidings.errors import Invalid
from tidings.model.notification import Notification
from tidings.model.template import Content, Template
from tidings.ports.wording import Wording


class Renderings:
    """A bounded cache in front of `Wording`; the least recently used rendering goes first."""

    def __init__(self, wording: Wording, templates: Mapping[str, Template], size: int = 2_000) -> None:
        self._wording = wording
        self._templates = templates
        self._size = size
        self._kept: OrderedDict[tuple[str, str, str], Content] = OrderedDict()

    def content(self, notification: Notification, locale: str, timezone: str) -> Content:
        """Return the words. Raises Invalid when the template is gone or cannot be filled in."""
        key = (notification.id, locale, timezone)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        template = self._templates.get(notification.template_code)
        if template is None:
            raise Invalid.field("templateCode", f"template {notification.template_code} is not there any more")
        content = self._kept[key] = self._wording.render(template, notification, locale, timezone)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return content
