"""NDJSON in and out: one document per line, read as it streams, so that memory does not grow with a line."""

from collections.abc import AsyncIterator, Iterable
from typing import Final

import msgspec
from fastapi import Request
from starlette.responses import Response

from tidings.api.problems import TooLarge, problem_of
from tidings.errors import TidingsError

#: bytes of one line
MAX_LINE: Final = 64 * 1024
MEDIA_TYPE: Final = "application/x-ndjson"


async def lines(request: Request, *, at_most: int) -> AsyncIterator[tuple[int, bytes]]:
    """Yield (line number from 1, line without its end) of each line that is not blank.

    Raises TooLarge for a line over 64 KiB or more than `at_most` lines.
    """
    number = 0
    rest = b""
    async for chunk in request.stream():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            if stripped := _checked(line, number, at_most):
                yield number, stripped
        _checked(rest, number + 1, at_most + 1)
    number += 1
    if rest.strip() and (stripped := _checked(rest, number, at_most)):
        yield number, stripped


def _checked(line: bytes, number: int, at_most: int) -> bytes:
    if len(line) > MAX_LINE:
        raise TooLarge(f"Line {number} is longer than {MAX_LINE} bytes.")
    if number > at_most and line.strip():
        raise TooLarge(f"Too many lines: at most {at_most} in one request.")
    return line.strip()


def failed(number: int, error: TidingsError) -> dict[str, object]:
    """Return the result of a line that was refused."""
    return {"line": number, "status": "refused", "error": msgspec.to_builtins(problem_of(error))}


def answer(results: Iterable[object]) -> Response:
    """Return one JSON document per result."""
    return Response(b"".join(msgspec.json.encode(one) + b"\n" for one in results), media_type=MEDIA_TYPE)
