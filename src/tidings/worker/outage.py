"""Something is away: said once when it goes and once when it is back, however many notice it in between."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from tidings.errors import BackendError

log = structlog.get_logger(__name__)


class Outage:
    """Watches calls of one kind."""

    def __init__(self, of: str) -> None:
        """of: what is tried, for the log."""
        self._of = of
        self._since: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long it has been away, None = it is there."""
        return None if self._since is None else time.monotonic() - self._since

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Swallow BackendError from the block, which is tried again later anyway."""
        try:
            yield
        except BackendError as error:
            if self._since is None:
                self._since = time.monotonic()
                log.warning("backend_away", of=self._of, problem=error.message)
        else:
            if self._since is not None:
                log.info("backend_back", of=self._of, after_s=round(time.monotonic() - self._since, 1))
                self._since = None
