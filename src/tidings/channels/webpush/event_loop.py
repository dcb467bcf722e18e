"""Runs a coroutine on uvloop where it exists."""

import asyncio
import sys
from collections.abc import Coroutine


def run(main: Coroutine[None, None, None]) -> None:
    """Run until the coroutine ends."""
    if sys.platform == "win32":
        asyncio.run(main)
    else:
        import uvloop

        uvloop.run(main)
