"""Text that people write and read: names, titles, prose, without what no screen can show."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

#: C0 and C1 controls except tab and line breaks, and halves of surrogate pairs
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_BREAK = re.compile("[\t\r\n\u2028\u2029]")


def readable(text: str) -> str:
    """Return text without the blanks around it. Raises ValueError for control characters; line breaks are none."""
    if _UNPRINTABLE.search(text):
        raise ValueError("must not contain control characters")
    return text.strip()


def one_line(text: str) -> str:
    """Return a single line without the blanks around it. Raises ValueError for more lines, and for none."""
    if _BREAK.search(text.strip()):
        raise ValueError("must be a single line")
    line = readable(text)
    if not line:
        raise ValueError("must not be blank")
    return line


#: a name or a title
Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(one_line)]
