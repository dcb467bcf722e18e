"""Signed links and the image that report clicks and opens, in the messages of categories that are tracked.

A tracked link contains its destination, so that the server redirects to nothing but the URLs of its own messages. The
text part keeps the plain links. A link with `rel="notrack"` stays as it is.
"""

import re
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from html import escape, unescape
from typing import Final

import msgspec

from tidings.channels.email.mail_text import UNSUBSCRIBE_MARK, MailText, split_at_marks
from tidings.channels.signed_token import sign_token, verify_token
from tidings.ports.channel import ComposeContext

#: path of tracked links and of the image; a token follows
TRACKING_PATH: Final = "/l/"
_PURPOSE: Final = b"tidings mail link v1"
#: characters of a destination; longer links are not tracked
_MAX_URL_LENGTH: Final = 1500
_MAX_TOKEN_LENGTH: Final = 4096
_ANCHOR: Final = re.compile(r"<a\b[^>]*>", re.IGNORECASE)
_HREF: Final = re.compile(r"""\bhref="([^"]*)\"""", re.IGNORECASE)
_NO_TRACKING: Final = re.compile(r"""\brel="[^"]*\bnotrack\b[^"]*\"""", re.IGNORECASE)
_BODY_END: Final = "</body>"


class MailLink(msgspec.Struct, frozen=True, array_like=True):
    """What a token says: the message, and which of its links, or the image."""

    delivery_id: str
    user_id: str
    category: str
    #: seconds since 1970
    sent_at: int
    #: destination, empty for the image
    url: str = ""
    #: 1 for the first tracked link of the message, and how many it has
    number: int = 0
    total: int = 0


class MailTracker:
    """Adds tracking to the HTML of messages."""

    def __init__(
        self, *, public_url: str, secret_key: str, opens: Collection[str] = (), clicks: Collection[str] = ()
    ) -> None:
        """opens, clicks: codes of the categories in which they are reported."""
        self._base_url = public_url + TRACKING_PATH
        self._secret_key = secret_key
        self._opens = frozenset(opens)
        self._clicks = frozenset(clicks)

    def insert_tracking(self, html: MailText, context: ComposeContext, sent_at: datetime) -> MailText:
        """Return the HTML of one delivery with tracked links and the image; unchanged where nothing is reported."""
        category = context.category.code
        if category not in self._clicks and category not in self._opens:
            return html
        document = "".join(html.pieces)
        pieces, urls = split_links(document) if category in self._clicks else ((document,), ())
        link = MailLink(context.delivery_id, context.user_id, category, int(sent_at.timestamp()))
        rewritten = [pieces[0]]
        for number, (url, piece) in enumerate(zip(urls, pieces[1:], strict=True), 1):
            tracked = msgspec.structs.replace(link, url=url, number=number, total=len(urls))
            rewritten += [self._build_url(tracked), piece]
        if category in self._opens:
            head, end, tail = rewritten[-1].rpartition(_BODY_END)
            image = f'<img src="{self._build_url(link)}" width="1" height="1" alt="" style="display:block;border:0">'
            # a document without an end of the body is taken as it is
            rewritten[-1:] = [head, image, end + tail] if end else [tail, image]
        # the mark of the unsubscribe link is a piece of its own again
        return MailText([part for piece in rewritten for part in split_at_marks(piece)])

    def _build_url(self, link: MailLink) -> str:
        return escape(self._base_url + sign_link(self._secret_key, link))


def sign_link(secret_key: str, link: MailLink) -> str:
    """Return the token of a link or of the image."""
    return sign_token(secret_key, _PURPOSE, msgspec.json.encode(link))


def verify_link(secret_key: str, token: str) -> MailLink | None:
    """Return what a token says, None if it was not signed with this secret key."""
    payload = verify_token(secret_key, _PURPOSE, token, max_length=_MAX_TOKEN_LENGTH)
    try:
        return None if payload is None else msgspec.json.decode(payload, type=MailLink)
    except msgspec.MsgspecError:
        return None


@lru_cache(maxsize=256)
def split_links(html: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the pieces of HTML around the destinations of its trackable links, and the destinations."""
    pieces: list[str] = []
    urls: list[str] = []
    end = 0
    for anchor in _ANCHOR.finditer(html):
        href = _HREF.search(anchor[0])
        if href is None or _NO_TRACKING.search(anchor[0]):
            continue
        url = unescape(href[1])
        if not re.match(r"https?://", url) or len(url) > _MAX_URL_LENGTH or url.startswith(UNSUBSCRIBE_MARK):
            continue
        start = anchor.start() + href.start(1)
        pieces.append(html[end:start])
        urls.append(url)
        end = anchor.start() + href.end(1)
    return (*pieces, html[end:]), tuple(urls)
