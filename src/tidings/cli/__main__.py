"""`python -m tidings.cli` is the same as `tidings`."""

from tidings.cli import main

main()
