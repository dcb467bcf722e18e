"""The page of an unsubscribe link, in plain HTML: opening it changes nothing, its button posts a form."""

from html import escape
from typing import Final

from tidings.channels.email.labels import find_labels
from tidings.channels.email.layout import select_text_color
from tidings.channels.email.settings import EmailSettings

_PAGE: Final = """<!doctype html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: #f2f4f7; color: #101828;
  font: 17px/1.55 -apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, Arial, sans-serif; }}
main {{ box-sizing: border-box; width: min(30rem, calc(100vw - 2rem)); padding: 2.5rem; background: #fff;
  border: 1px solid #e4e7ec; border-radius: 14px; }}
strong {{ display: block; font-size: 15px; margin-bottom: 1.25rem; }}
h1 {{ font-size: 1.3rem; line-height: 1.35; margin: 0; }}
button {{ margin-top: 1.5rem; padding: .8rem 1.6rem; border: 0; border-radius: 8px; background: {color};
  color: {text_color}; font: inherit; font-weight: 600; cursor: pointer; }}
button:focus-visible {{ outline: 3px solid {color}; outline-offset: 3px; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #101318; color: #f4f6f9; }}
  main {{ background: #1b2028; border-color: #2b323d; }}
}}
</style>
</head>
<body>
<main>
<strong>{brand}</strong>
<h1>{message}</h1>
{form}</main>
</body>
</html>
"""
_FORM: Final = '<form method="post"><button type="submit">{label}</button></form>\n'


def render_confirmation(settings: EmailSettings, category_title: str, lang: str = "en") -> str:
    """Return the page for GET: a question and a button that posts to the same URL."""
    labels = find_labels(lang)
    message = labels.page_question.format(category=category_title, brand=settings.brand)
    return _render(settings, lang, message, _FORM.format(label=escape(labels.unsubscribe)))


def render_done(settings: EmailSettings, category_title: str, lang: str = "en") -> str:
    """Return the page after POST, also after a repeated one."""
    return _render(settings, lang, find_labels(lang).page_done.format(category=category_title))


def render_invalid(settings: EmailSettings, lang: str = "en") -> str:
    """Return the page for a link whose token was not signed by this server."""
    return _render(settings, lang, find_labels(lang).page_invalid)


def _render(settings: EmailSettings, lang: str, message: str, form: str = "") -> str:
    return _PAGE.format(
        lang=escape(lang),
        title=escape(find_labels(lang).page_title),
        brand=escape(settings.brand),
        message=escape(message),
        form=form,
        color=settings.brand_color,
        text_color=select_text_color(settings.brand_color),
    )
