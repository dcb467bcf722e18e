"""`tidings mock-push`: a push service for development and tests."""

from collections.abc import Sequence


def mock_push(*options: str) -> None:
    """Run a push service that checks and decrypts what it gets, and fails on demand."""
    raise SystemExit(forward(options))


def forward(options: Sequence[str]) -> int:
    """Hand the rest of the command line to the service's own parser and return its exit code."""
    from tidings.testing.mock_push.__main__ import main

    # what it prints is JSON without being asked
    return main([option for option in options if option != "--json"])
