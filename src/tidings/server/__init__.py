"""The server processes: `tidings serve`, `tidings api`, `tidings worker`.

Takes: settings and a role.
Gives: a running process, from the checks at its start to its shutdown, and its exit code.
Never: stores, queues or sends anything itself.
"""

from tidings.server.roles import OnReady, run

__all__ = ["OnReady", "run"]
