"""`tidings mock-push`: run the mock push service."""

from collections.abc import Sequence

_CONTROL_HELP = """
While it runs, /control/behaviour sets its responses. In this example half of the devices receive one 429:
  curl -X PUT http://127.0.0.1:9000/control/behaviour \\
    -d '{"rules": [{"status": 429, "retryAfter": 2, "share": 0.5, "times": 1}]}'
DELETE on the same URL restores the default. GET /control/stats returns counters, GET /control/messages the messages."""


def mock_push(*options: str) -> None:
    """Run a push service that verifies and decrypts messages, and fails on request."""
    raise SystemExit(forward(options))


def forward(options: Sequence[str]) -> int:
    """Pass the rest of the command line to the service's own parser and return its exit code."""
    from tidings.mockpush.__main__ import main

    try:
        # the service always prints JSON
        return main([option for option in options if option != "--json"])
    except SystemExit as exit_request:
        if not exit_request.code:  # the parser has printed its help
            print(_CONTROL_HELP)
        raise
