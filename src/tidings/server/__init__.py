"""The long-lived processes: `tidings serve`, `tidings api`, `tidings worker`.

Takes: settings and a role.
Gives: the running process, from the first check to an orderly end; the exit code.
Never: knows how anything is stored, queued or sent.
"""

from tidings.server.processes import Announce, run

__all__ = ["Announce", "run"]
