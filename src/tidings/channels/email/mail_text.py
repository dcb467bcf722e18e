"""The HTML or the text of a message, encoded once for all recipients: they differ in the unsubscribe link only."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from tidings.channels.email.mime import SOFT_BREAK, encode_text

#: stands for the unsubscribe link
UNSUBSCRIBE_MARK: Final = "https://unsubscribe.invalid/one-click"
_MARK: Final = re.compile(r"tidingsmark(\d+)end")
_ANY_MARK: Final = re.compile(rf"(tidingsmark\d+end|{re.escape(UNSUBSCRIBE_MARK)})")


class TextTemplate(msgspec.Struct, frozen=True):
    """A text with marks in the place of other texts, split once for all messages of one shape."""

    pieces: tuple[str, ...]
    #: (position in `pieces`, number of the text) of each mark
    marks: tuple[tuple[int, int], ...]

    @classmethod
    def split(cls, source: str) -> "TextTemplate":
        """Return a text split at its marks."""
        pieces = split_at_marks(source)
        found = ((position, _MARK.fullmatch(piece)) for position, piece in enumerate(pieces))
        return cls(pieces, tuple((position, int(mark[1])) for position, mark in found if mark is not None))

    def insert_texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return the pieces with the texts, by number, in the place of their marks."""
        filled = list(self.pieces)
        for position, number in self.marks:
            filled[position] = texts[number]
        return tuple(filled)


class MailText:
    """The HTML or the text of a message. `UNSUBSCRIBE_MARK` is a piece of its own, and is replaced by the link."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = tuple(pieces)
        #: the encoded text around each unsubscribe link
        self._encoded: tuple[bytes, ...] | None = None

    def join(self, link: str) -> str:
        """Return the text. link: of the recipient."""
        return "".join(link if piece == UNSUBSCRIBE_MARK else piece for piece in self.pieces)

    def encode(self, link: str) -> bytes:
        """Return the text in quoted-printable, without a line break at its end. link: of the recipient."""
        if self._encoded is None:
            self._encoded = self._encode_around_links()
        return (SOFT_BREAK + encode_text(link) + SOFT_BREAK).join(self._encoded)

    def _encode_around_links(self) -> tuple[bytes, ...]:
        groups: list[list[bytes]] = [[]]
        for piece in self.pieces:
            if piece == UNSUBSCRIBE_MARK:
                groups.append([])
            else:
                groups[-1].append(encode_text(piece))
        return tuple(SOFT_BREAK.join(group) for group in groups)


def split_at_marks(text: str) -> tuple[str, ...]:
    """Return the pieces of a text. Each mark, of a text or of the unsubscribe link, is a piece of its own."""
    return tuple(piece for piece in _ANY_MARK.split(text) if piece)


def remove_marks(text: str) -> str:
    """Return a text without marks of texts, which a template must not contain."""
    return _MARK.sub("", text)
