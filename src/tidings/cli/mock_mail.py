"""`tidings mock-mail`: run the mock mail service."""

from collections.abc import Sequence

_CONTROL_HELP = """
While it runs, /control/behaviour sets its replies. In this example one address is full, and the next SMS is refused:
  curl -X PUT http://127.0.0.1:8025/control/behaviour \\
    -d '{"mail": [{"to": "full@example.org", "reply": "452 4.2.2 mailbox full"}], "sms": [{"status": 429, "times": 1}]}'
DELETE on the same URL restores the default. GET /api/messages lists what was received."""


def mock_mail(*options: str) -> None:
    """Run a mailbox that takes every e-mail and SMS, and shows them on a page."""
    raise SystemExit(forward(options))


def forward(options: Sequence[str]) -> int:
    """Pass the rest of the command line to the service's own parser and return its exit code."""
    from tidings.mockmail.__main__ import main

    try:
        return main(options)
    except SystemExit as exit_request:
        if not exit_request.code:  # the parser has printed its help
            print(_CONTROL_HELP)
        raise
