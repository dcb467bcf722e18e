"""Texts that show what they contain: no mention, markup or link of a variable takes effect. Pure."""

import re
from collections.abc import Callable

#: invisible, and no break between words
WORD_JOINER = "\N{WORD JOINER}"
#: an @ that begins a name, not the one inside an e-mail address
_MENTION = re.compile(r"(?<![\w.+-])@(?=\w)")
_URL = re.compile(r"https?://[^\s<>()\[\]]+")
_DISCORD_MARKUP = re.compile(r"[\\*_~`|<>\[\]()#-]")


def escape_mentions(text: str) -> str:
    """Return a text in which `@name` is not a mention: an invisible character follows the @."""
    return _MENTION.sub(f"@{WORD_JOINER}", text)


def escape_slack(text: str) -> str:
    """Return a text without control sequences such as `<!channel>`, `<@U024BE7LH>` and `<https://…|text>`."""
    return escape_mentions(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def escape_discord(text: str) -> str:
    """Return a text without Markdown, mentions and links with another text. Plain URLs remain."""
    parts: list[str] = []
    end = 0
    for match in _URL.finditer(text):
        parts += [_escape_markdown(text[end : match.start()]), match.group()]
        end = match.end()
    parts.append(_escape_markdown(text[end:]))
    return "".join(parts)


def _escape_markdown(text: str) -> str:
    return _DISCORD_MARKUP.sub(r"\\\g<0>", escape_mentions(text))


def measure_text(text: str) -> int:
    """Return the length as the services count it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def truncate_text(text: str, limit: int, escape: Callable[[str], str]) -> str:
    """Return an escaped text of at most `limit` UTF-16 units. A text that is cut ends with an ellipsis."""
    escaped = escape(text)
    while (excess := measure_text(escaped) - limit) > 0 and text:
        # escaping may double the length, so half of the excess is cut at a time
        text = text.removesuffix("…")[: -max(1, (excess + 1) // 2)] + "…"
        if text == "…":
            return text
        escaped = escape(text)
    return escaped
