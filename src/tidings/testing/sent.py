"""One request of pyreqwest, heard to the end or cancelled, and not both."""

import asyncio

from pyreqwest.request import ConsumedRequest
from pyreqwest.response import Response


async def sent(request: ConsumedRequest) -> Response:
    """Send a request and return the answer, its body read.

    Cancelled as the answer comes, pyreqwest returns that and forgets the cancellation, and whoever asked goes on.
    """
    try:
        return await request.send()
    finally:
        if (own := asyncio.current_task()) is not None and own.cancelling():
            raise asyncio.CancelledError
