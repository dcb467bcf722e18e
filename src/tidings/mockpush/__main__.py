"""`python -m tidings.mockpush`: the mock push service as a separate process."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tidings.errors import TidingsError
from tidings.mockpush.devices import DEFAULT_SEED
from tidings.mockpush.server import MockPushOptions, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT and return the exit code: 0, or 1 if the service cannot start.

    The ready message is one line on standard output: `{"origin": "http://127.0.0.1:PORT"}`.
    """
    options = _parse_arguments(arguments)
    try:
        run(options)
    except TidingsError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    return 0


def run(options: MockPushOptions) -> None:
    """Run the service on uvloop, if it is installed. Raises ConfigError if the service cannot start."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(options))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not available on Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _parse_arguments(arguments: Sequence[str] | None) -> MockPushOptions:
    parser = argparse.ArgumentParser(prog="tidings mock-push", description="A push service with simulated devices.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 = any free port")
    parser.add_argument("--seed", default=DEFAULT_SEED.decode(), help="text from which the devices' keys are derived")
    verification = parser.add_mutually_exclusive_group()
    verification.add_argument("--fast", action="store_true", help="decrypt nothing, verify each VAPID token once")
    verification.add_argument(
        "--verify-share", type=_parse_share, default=1.0, help="share of the devices to verify, 0 to 1"
    )
    parser.add_argument("--keep", type=int, default=1000, help="messages kept for /control/messages")
    parser.add_argument("--timed", default="", help="prefix of the device ids whose receipts /control/times lists")
    parser.add_argument("--vapid-key", action="append", default=[], help="accepted applicationServerKey, base64url")
    parser.add_argument("--also-origin", action="append", default=[], help="origin accepted as aud besides its own")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--drip-seconds", type=float, default=1.0, help="seconds between two bytes of a drip")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the parent process")
    parsed = parser.parse_args(arguments)
    return MockPushOptions(
        host=parsed.host,
        port=parsed.port,
        seed=parsed.seed.encode(),
        verify_share=0.0 if parsed.fast else parsed.verify_share,
        keep=parsed.keep,
        timed=parsed.timed,
        vapid_keys=tuple(parsed.vapid_key),
        origins=tuple(parsed.also_origin),
        tls_cert=parsed.tls_cert,
        tls_key=parsed.tls_key,
        drip_seconds=parsed.drip_seconds,
        until_stdin_closes=parsed.until_stdin_closes,
    )


def _parse_share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return share


if __name__ == "__main__":
    sys.exit(main())
