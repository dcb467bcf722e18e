"""The loops that keep the flow moving: consume, relay, record, sweep. A door: it drives the runtime."""

from tidings.worker.run import working
from tidings.worker.worker import Worker

__all__ = ["Worker", "working"]
