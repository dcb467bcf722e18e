"""The in-app channel. A send stores an item in the user's feed; the user needs no contact point."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import structs

from tidings.errors import BackendError, ValidationFailed
from tidings.inbox_service import InboxService
from tidings.model.delivery import OutboundMessage
from tidings.model.inbox import InboxItem
from tidings.model.outcome import Accepted, Outcome, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.model.template import RenderedMessage
from tidings.ports.broadcaster import Broadcaster
from tidings.ports.channel import ComposeContext
from tidings.ports.clock import Clock
from tidings.ports.store import Store

#: field of a template's contents for this channel: an update with the text `true` is shown as new
RENOTIFY_FIELD: Final = "renotify"
#: items on their way to the database, per worker; a claim has as many deliveries
MAX_LOCAL_SENDS: Final = 1_000
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(InboxItem).decode


class InAppChannel:
    """Implements `tidings.ports.channel.Channel` for the feeds of users."""

    def __init__(self, deliver: Callable[[InboxItem], Awaitable[None]], clock: Clock) -> None:
        """deliver: stores an item once per notification and user. Raises BackendError if it could not."""
        self.name = "inapp"
        #: A transaction stores what waits, so more items at once need fewer of them: 6 000 items of a broadcast took
        #: 780 statements with 200 at once, and 370 with 600
        self.max_local_sends = MAX_LOCAL_SENDS
        self._deliver = deliver
        self._clock = clock

    async def open(self) -> None:
        """Do nothing: the channel has no connections of its own."""

    def compose(self, content: RenderedMessage, context: ComposeContext) -> bytes:
        """Return the item as MessagePack. Raises ValidationFailed for text that cannot be encoded."""
        item = InboxItem(
            id=context.delivery_id,
            user_id=context.user_id,
            notification_id=context.notification_id,
            category=context.category.code,
            title=content.title,
            body=content.body,
            url=content.url,
            lang=content.lang,
            # the priority of the delivery is known at the send
            priority=Priority.NORMAL,
            collapse_key=context.collapse_key,
            created_at=self._clock.now(),
            expires_at=context.expires_at,
            direction=content.direction,
            actions=content.actions,
            renotify=content.fields.get(RENOTIFY_FIELD, "").strip() == "true",
        )
        try:
            return _encode(item)
        except UnicodeEncodeError as error:
            raise ValidationFailed("The text of the in-app message contains an unpaired surrogate.") from error

    async def send(self, message: OutboundMessage) -> Outcome:
        """Store the item. A repeat is accepted and has no effect."""
        item = structs.replace(_decode(message.payload), priority=message.priority)
        try:
            await self._deliver(item)
        except BackendError as error:
            until = self._clock.now() + timedelta(seconds=error.retry_after)
            return RetryLater(until, f"the item was not stored: {error.message}", counts_as_attempt=False)
        except ValidationFailed as error:
            return PermanentFailure(error.message)
        return Accepted("stored in the feed")

    async def close(self) -> None:
        """Do nothing: each send ends with its transaction."""


def create_inapp_channel(store: Store, clock: Clock, broadcaster: Broadcaster) -> InAppChannel:
    """Return a channel that stores items in a store and publishes them on a broadcaster."""
    return InAppChannel(InboxService(store, clock, broadcaster).deliver, clock)
