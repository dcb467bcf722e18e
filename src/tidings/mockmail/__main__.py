"""`python -m tidings.mockmail`: the mock mail service as a process."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from tidings.errors import TidingsError
from tidings.mockmail.server import MockMailAddress, MockMailOptions, print_address, serve

#: ports of the command line, so that settings stay the same over restarts
SMTP_PORT = 1025
HTTP_PORT = 8025


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT and return the exit code: 0, or 1 if the service cannot start."""
    parsed = _create_parser().parse_args(arguments)
    options = MockMailOptions(
        host=parsed.host,
        smtp_port=parsed.smtp_port,
        http_port=parsed.http_port,
        keep=parsed.keep,
        until_stdin_closes=parsed.until_stdin_closes,
    )
    try:
        asyncio.run(serve(options, print_address if parsed.json else _print_settings))
    except TidingsError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    return 0


def _print_settings(address: MockMailAddress) -> None:
    print(f"Received messages: {address.url}\n\nSettings of Tidings that send there:\n")
    print(f"  TIDINGS_SMTP_URL='{address.smtp_url}'")
    print("  TIDINGS_EMAIL_FROM='Tidings <news@tidings.example>'")
    print(f"  TIDINGS_SMS_URL='{address.sms_url}'")
    print("\nStop with Ctrl-C.", flush=True)


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidings mock-mail", description="A mailbox that takes every e-mail and SMS, and shows them on a page."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--smtp-port", type=int, default=SMTP_PORT, help="0 = any free port")
    parser.add_argument("--http-port", type=int, default=HTTP_PORT, help="of the page and the SMS API; 0 = any")
    parser.add_argument("--keep", type=_parse_count, default=1000, help="messages that are kept, at most 64 MB")
    parser.add_argument("--json", action="store_true", help="print the addresses as one line of JSON")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the parent process")
    return parser


def _parse_count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 100_000:
        raise argparse.ArgumentTypeError("must be between 1 and 100000")
    return count


if __name__ == "__main__":
    sys.exit(main())
