"""The command line: `tidings …`. One file per group of commands, imported only when one of them is called."""

import gc
import sys
from collections.abc import Sequence

#: garbage collection threshold of the youngest generation. With Python's default of 700, collections while modules load
#: take a seventh of the start of a server, and later one runs every few messages
GENERATION_0_THRESHOLD = 10_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 = success, 1 = failure or a negative answer, 2 = invalid arguments or settings."""
    gc.set_threshold(GENERATION_0_THRESHOLD, *gc.get_threshold()[1:])
    from tidings.cli.app import run

    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))
