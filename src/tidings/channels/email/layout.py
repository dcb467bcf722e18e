"""The HTML and the text of a message: MJML layout, rendered by mrml, styles inlined by css-inline.

No style sheet, font or include is loaded from a network. Both results have `UNSUBSCRIBE_MARK` instead of the link of
one user, so that all recipients of a template and language share one rendering.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Final

import css_inline
import mrml
import msgspec
import structlog
from minijinja import Environment, safe

from tidings.channels.email.labels import find_labels
from tidings.channels.email.mail_text import (
    UNSUBSCRIBE_MARK,
    MailText,
    TextTemplate,
    remove_marks,
    split_at_marks,
)
from tidings.channels.email.plain_text import to_plain_text
from tidings.channels.email.settings import EmailSettings
from tidings.errors import ValidationFailed
from tidings.model.template import Category, RenderedMessage

log = structlog.get_logger(__name__)

#: bytes of HTML above which Gmail cuts a message off
MAX_HTML_BYTES: Final = 102_000
#: of UTF-8
_MAX_BYTES_PER_CHARACTER: Final = 4
#: renderings that are kept
_CACHE_SIZE: Final = 256
#: compiled layouts that are kept; there is one per shape of a message: language, paragraphs, lines and buttons
_COMPILED_CACHE_SIZE: Final = 512
_PREVIEW_LENGTH: Final = 140
#: characters that XML and HTML do not allow
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_FOLDER: Final = Path(__file__).parent / "layouts"
#: the elements that mrml knows; it drops all others without a warning
_KNOWN_ELEMENTS: Final = """mjml mj-head mj-body mj-attributes mj-all mj-class mj-breakpoint mj-font mj-preview mj-style
    mj-title mj-raw mj-accordion mj-accordion-element mj-accordion-title mj-accordion-text mj-button mj-carousel
    mj-carousel-image mj-column mj-divider mj-group mj-hero mj-image mj-navbar mj-navbar-link mj-section mj-social
    mj-social-element mj-spacer mj-table mj-text mj-wrapper"""
KNOWN_ELEMENTS: Final = frozenset(_KNOWN_ELEMENTS.split())


class MailBody(msgspec.Struct, frozen=True):
    """The HTML and the text of a message, for all of its recipients in one language."""

    html: MailText
    text: MailText


class MailLayout:
    """Renders the bodies of messages in the layout of one installation."""

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings
        self._brand = settings.brand
        #: titles of the categories with a message that was too large
        self._clipped: set[str] = set()
        self._environment = Environment(
            # the names end in .html, so that values are escaped
            templates={
                f"{name}.html": (_FOLDER / f"{name}.mjml").read_text(encoding="utf-8") for name in ("default", "footer")
            },
            debug=False,
        )
        self._inliner = css_inline.CSSInliner(keep_style_tags=True, load_remote_stylesheets=False, base_url=None)
        # Marks stand for the texts, so messages of one shape share their MJML: compiling it takes milliseconds,
        # replacing the marks takes microseconds.
        self._compile_cached = lru_cache(maxsize=_COMPILED_CACHE_SIZE)(self._compile)
        self._to_text_cached = lru_cache(maxsize=_COMPILED_CACHE_SIZE)(
            lambda source: TextTemplate.split(to_plain_text(source))
        )
        self._render_cached = lru_cache(maxsize=_CACHE_SIZE)(self._render)

    def render(self, content: RenderedMessage, category: Category) -> MailBody:
        """Return HTML and text. Raises ValidationFailed if the template's own MJML is invalid."""
        buttons = tuple((action.title, action.navigate) for action in content.actions)
        return self._render_cached(
            content.title,
            content.body,
            buttons or ((find_labels(content.lang).view, content.url),),
            content.lang,
            content.direction,
            content.fields.get("mjml", ""),
            content.fields.get("text", ""),
            category.title,
            category.is_mandatory("email"),
        )

    def _render(
        self,
        title: str,
        body: str,
        buttons: tuple[tuple[str, str], ...],
        lang: str,
        direction: str,
        mjml: str,
        text: str,
        category_title: str,
        is_mandatory: bool,
    ) -> MailBody:
        settings, labels = self._settings, find_labels(lang)
        reason = labels.mandatory_reason if is_mandatory else labels.reason
        paragraphs = [part.split("\n") for part in re.split(r"\n\s*\n", body.strip()) if part.strip()]
        mark = _Marks()
        source, footer = self._fill_layout(
            remove_marks(_CONTROL.sub("", mjml)),
            lang=mark(lang),
            direction="rtl" if direction == "rtl" else "ltr",
            start="right" if direction == "rtl" else "left",
            title=mark(title),
            preview=mark(" ".join(body.split())[:_PREVIEW_LENGTH]),
            paragraphs=[[mark(line) for line in lines] for lines in paragraphs],
            buttons=[{"title": mark(label), "url": mark(url)} for label, url in buttons],
            brand=mark(self._brand),
            brand_color=settings.brand_color,
            button_text_color=select_text_color(settings.brand_color),
            logo_url=settings.logo_url and mark(settings.logo_url),
            postal_address=settings.postal_address and mark(settings.postal_address),
            reason=mark(reason.format(category=category_title, brand=self._brand)),
            unsubscribe_url="" if is_mandatory else UNSUBSCRIBE_MARK,
            unsubscribe_label=mark(labels.unsubscribe),
        )
        html = mark.insert_html(self._compile_cached(source))
        self._warn_if_clipped(html, category_title)
        if text.strip():
            head = split_at_marks(f"{text.strip()}\n\n")
            return MailBody(MailText(html), MailText((*head, *mark.insert_text(self._to_text_cached(footer)))))
        return MailBody(MailText(html), MailText(mark.insert_text(self._to_text_cached(source))))

    def _warn_if_clipped(self, html: Sequence[str], category_title: str) -> None:
        """Log once per category that mail programs cut its messages off."""
        if sum(map(len, html)) * _MAX_BYTES_PER_CHARACTER <= MAX_HTML_BYTES:
            return
        size = sum(len(piece.encode()) for piece in html)
        if size > MAX_HTML_BYTES and category_title not in self._clipped:
            self._clipped.add(category_title)
            log.warning("email_html_clipped", category=category_title, bytes=size, limit=MAX_HTML_BYTES)

    def _compile(self, mjml: str) -> TextTemplate:
        return TextTemplate.split(self._inliner.inline(_compile(mjml)))

    def _fill_layout(self, mjml: str, **variables: object) -> tuple[str, str]:
        """Return the MJML of the whole message, and that of its footer. mjml: the template's own, or empty."""
        footer = self._environment.render_template("footer.html", **variables)
        if "<mjml" in mjml:
            head, end, tail = mjml.rpartition("</mj-body>")
            return head + footer + end + tail, footer
        return self._environment.render_template("default.html", content_mjml=safe(mjml), **variables), footer


class _Marks:
    """Replaces texts by marks while MJML is rendered: mrml decodes entities in some elements and writes them raw."""

    def __init__(self) -> None:
        #: text → its number. Equal texts have one mark, so that a link whose label is its URL is recognised
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> str:
        number = self._numbers.setdefault(_CONTROL.sub("", text), len(self._numbers))
        # only letters and digits: mrml writes other characters of attributes in the escapes of Rust
        return f"tidingsmark{number}end"

    def insert_html(self, template: TextTemplate) -> tuple[str, ...]:
        """Return HTML with the texts in the place of their marks, escaped for elements and attributes."""
        return template.insert_texts([escape(text) for text in self._numbers])

    def insert_text(self, template: TextTemplate) -> tuple[str, ...]:
        """Return the text part with the texts in the place of their marks, each in one line."""
        return template.insert_texts([" ".join(text.split()) for text in self._numbers])


def measure_html(body: MailBody) -> int:
    """Return the bytes of HTML, with the mark of the unsubscribe link instead of the link."""
    return sum(len(piece.encode()) for piece in body.html.pieces)


def find_unknown_elements(mjml: str) -> list[str]:
    """Return the `mj-…` elements of a source that the renderer does not know and would drop."""
    return sorted({name.lower() for name in re.findall(r"<(mj-?[\w-]*)", mjml)} - KNOWN_ELEMENTS)


def select_text_color(background: str) -> str:
    """Return black or white, whichever has more contrast on a colour `#rrggbb` (WCAG 2.2, relative luminance)."""
    channels = [int(background[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if 1.05 / (luminance + 0.05) >= (luminance + 0.05) / 0.05 else "#101828"


def _compile(mjml: str) -> str:
    if unknown := find_unknown_elements(mjml):
        raise ValidationFailed.for_field("mjml", f"contains the unknown element {unknown[0]}")
    try:
        return mrml.to_html(mjml).content
    except OSError as error:
        raise ValidationFailed.for_field("mjml", f"cannot be rendered: {error}") from error
