"""A way to reach somebody. One file or folder per channel under `tidings.channels`."""

from typing import Protocol

from tidings.model.delivery import Message
from tidings.model.outcome import Outcome
from tidings.model.template import Content


class Channel(Protocol):
    """Turns content into bytes and sends them to one target. Never touches the database."""

    #: short name used in preferences, deliveries and the API: `webpush`, `email`, …
    name: str

    async def open(self) -> None:
        """Start what the channel needs (connections, sender processes). Raises ConfigError when it cannot."""
        ...

    def encode(self, content: Content, *, notification_id: str, delivery_id: str) -> bytes:
        """Return the payload of one message."""
        ...

    async def send(self, message: Message) -> Outcome:
        """Send one message and say what came of it. Expected failures are outcomes; only bugs raise."""
        ...

    async def close(self) -> None:
        """Let what is in flight end, then free resources."""
        ...
