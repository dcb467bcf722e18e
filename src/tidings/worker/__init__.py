"""The worker: the loops that drive the flow.

Takes: an open `AppContainer`.
Gives: consumers for the lanes and the intake, and background tasks, until the worker is drained.
Never: decides what is sent or stored. The flow does.
"""

from tidings.worker.lifecycle import start_worker
from tidings.worker.worker import Worker

__all__ = ["Worker", "start_worker"]
