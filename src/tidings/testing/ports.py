"""Selection of TCP ports for servers under test."""

import random
import socket

#: below Linux's range for outgoing connections, so that no connection takes the port while a server restarts
_RANGE = range(10_240, 32_000)
_SYSTEM = random.SystemRandom()


def free_port() -> int:
    """Return an unused port on 127.0.0.1. Raises OSError if none is found."""
    for port in _SYSTEM.sample(_RANGE, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port among a hundred tried")
