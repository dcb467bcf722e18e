"""The command line: `tidings …`. One file per group of commands, imported only when one of them is called."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 = success, 1 = failure or a negative answer, 2 = invalid arguments or settings."""
    from tidings.cli.app import run

    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))
