"""`tidings mock-push`: a push service for development and tests."""

from collections.abc import Sequence

_CONTROL = """
While it runs, /control decides what becomes of pushes. Here half of the devices are told to wait, once:
  curl -X PUT http://127.0.0.1:9000/control/behaviour \\
    -d '{"rules": [{"status": 429, "retryAfter": 2, "share": 0.5, "times": 1}]}'
DELETE the same address to end that; GET /control/stats counts, GET /control/messages shows what arrived."""


def mock_push(*options: str) -> None:
    """Run a push service that checks and decrypts what it gets, and fails on demand."""
    raise SystemExit(forward(options))


def forward(options: Sequence[str]) -> int:
    """Hand the rest of the command line to the service's own parser and return its exit code."""
    from tidings.testing.mock_push.__main__ import main

    try:
        # what it prints is JSON without being asked
        return main([option for option in options if option != "--json"])
    except SystemExit as end:
        if not end.code:  # the parser has printed its help
            print(_CONTROL)
        raise
