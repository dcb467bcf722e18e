"""NDJSON requests and responses: one document per line. Reads the stream in chunks, so that memory use is bounded."""

from collections.abc import AsyncIterator, Iterable
from typing import Final

import msgspec
from fastapi import Request
from starlette.responses import Response

from tidings.api.http.problem_details import PayloadTooLarge, problem_for
from tidings.errors import TidingsError

#: bytes of one line
MAX_LINE_BYTES: Final = 64 * 1024
MEDIA_TYPE: Final = "application/x-ndjson"


async def read_lines(request: Request, *, max_lines: int) -> AsyncIterator[tuple[int, bytes]]:
    """Yield (line number from 1, line without its line break) for each line that is not blank.

    Raises PayloadTooLarge for a line over 64 KiB, or for more than `max_lines` lines.
    """
    number = 0
    rest = b""
    async for chunk in request.stream():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            if stripped := _check_line(line, number, max_lines):
                yield number, stripped
        _check_line(rest, number + 1, max_lines + 1)
    number += 1
    if rest.strip() and (stripped := _check_line(rest, number, max_lines)):
        yield number, stripped


def _check_line(line: bytes, number: int, max_lines: int) -> bytes:
    if len(line) > MAX_LINE_BYTES:
        raise PayloadTooLarge(f"Line {number} is longer than {MAX_LINE_BYTES} bytes.")
    if number > max_lines and line.strip():
        raise PayloadTooLarge(f"Too many lines: at most {max_lines} per request.")
    return line.strip()


def error_result(number: int, error: TidingsError) -> dict[str, object]:
    """Return the result of a rejected line."""
    return {"line": number, "status": "refused", "error": msgspec.to_builtins(problem_for(error))}


def response(results: Iterable[object]) -> Response:
    """Return the NDJSON response: one JSON document per result."""
    return Response(b"".join(msgspec.json.encode(result) + b"\n" for result in results), media_type=MEDIA_TYPE)
