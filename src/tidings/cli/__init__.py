"""The command line: `tidings …`. One file per group of commands; each is imported only when it is called."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process: 0 = done, 1 = failed or the answer is no, 2 = wrong call or setting."""
    from tidings.cli.app import run

    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))
