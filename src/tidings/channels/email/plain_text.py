"""The text part of a message, derived from its MJML source. Links carry their text and their URL."""

import re
from html.parser import HTMLParser
from typing import Final

#: elements that begin and end a paragraph
_BLOCKS: Final = frozenset(
    {"mj-text", "mj-button", "mj-image", "mj-divider", "mj-section", "mj-table", "p", "div", "ul", "ol", "table"}
    | {f"h{level}" for level in range(1, 7)}
)
_LINES: Final = frozenset({"br", "li", "tr"})
_IGNORED: Final = frozenset({"mj-head", "mj-style", "mj-raw", "style", "script", "head"})


def to_plain_text(source: str) -> str:
    """Return the text of an MJML or HTML source, lines separated by a single line feed."""
    reader = _TextReader()
    reader.feed(source)
    reader.close()
    text = re.sub(r"[ \t\r\f]+", " ", "".join(reader.parts))
    text = re.sub(r" ?\n ?", "\n", text)
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


class _TextReader(HTMLParser):
    """Collects the visible text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._ignored = 0
        #: per open link: its URL and the index of its first part
        self._links: list[tuple[str, int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _IGNORED:
            self._ignored += 1
        if self._ignored:
            return
        attributes = dict(attrs)
        if tag in _BLOCKS:
            self.parts.append("\n\n")
        if tag in _LINES:
            self.parts.append("\n- " if tag == "li" else "\n")
        if tag in ("a", "mj-button"):
            self._links.append((attributes.get("href") or "", len(self.parts)))
        if tag in ("img", "mj-image") and attributes.get("alt"):
            self.parts.append(f"[{attributes['alt']}]")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _IGNORED:
            return
        self.handle_starttag(tag, attrs)
        if tag in ("a", "mj-button"):
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _IGNORED:
            self._ignored = max(0, self._ignored - 1)
        if self._ignored:
            return
        if tag in ("a", "mj-button") and self._links:
            url, first = self._links.pop()
            label = "".join(self.parts[first:]).strip()
            if url and url != label:
                self.parts.append(f": {url}" if tag == "mj-button" else f" ({url})")
        if tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._ignored:
            self.parts.append(re.sub(r"\s+", " ", data))
