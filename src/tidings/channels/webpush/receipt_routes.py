"""The route on which service workers report what happened to notifications."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, Field

from tidings.channels.engagement_recorder import EngagementRecorder
from tidings.channels.webpush.receipts import MessageKey, ReceiptEvent, build_event, is_receipt_expired
from tidings.channels.webpush.server_keys import get_channel
from tidings.errors import Unauthenticated
from tidings.ports.pack_context import PackContext
from tidings.ports.rate_limits import RateLimit
from tidings.schemas.field_types import check_single_line
from tidings.schemas.json_body import RequestModel

#: by address, as the caller has no user token; a whole office may be shown a broadcast at once
_RECEIPT_RATE: Final = RateLimit(1200, 60)
#: seconds; the oldest event that a worker reports
_MAX_AGE: Final = 7 * 24 * 3600
#: the year 9999
_MAX_INSTANT: Final = 253_402_300_799_000

MessageId = Annotated[str, Field(min_length=36, max_length=36, pattern="^[0-9a-f-]+$")]

Action = Annotated[str, Field(max_length=100), AfterValidator(check_single_line)]


class ReceiptBody(RequestModel):
    """An event of one message, with the values and the token of its payload."""

    notification_id: MessageId
    delivery_id: MessageId
    expires_at: int = Field(ge=0, le=_MAX_INSTANT, description="milliseconds since 1970, as in the payload")
    token: str = Field(min_length=1, max_length=64, pattern="^[A-Za-z0-9_-]+$")
    event: Literal["shown", "clicked", "closed"]
    action: Action = Field("", description="the button that was pressed")
    seconds_ago: int = Field(0, ge=0, le=_MAX_AGE, description="how long ago it happened, if reported later")


def add_receipts(routes: APIRouter, context: PackContext) -> None:
    """Add the route."""
    policy, recorder = get_channel(context.channels).receipts, EngagementRecorder(context.store, context.clock)

    @routes.post(
        "/push/receipts",
        status_code=204,
        responses={401: {"description": "`invalid_receipt`: the token is not that of the message"}},
        dependencies=[Depends(context.rate_limited("push-receipts", _RECEIPT_RATE))],
    )
    async def record_receipt(body: ReceiptBody) -> None:
        """Record that a notification was shown, clicked or closed.

        Needs no user token: the payload carries a token of its delivery. 204 also for a repeat, and for what is not
        recorded: an event that its category does not report any more, more than a week after the message expired, or
        of a message that is not stored any more. 401 with code `invalid_receipt` for a token of another message.
        """
        event = ReceiptEvent(body.event)
        message = MessageKey(body.notification_id, body.delivery_id, body.expires_at)
        if not policy.is_signed(message, body.token):
            raise Unauthenticated("The token is not that of the message.", code="invalid_receipt")
        now = context.clock.now()
        if is_receipt_expired(message, now):
            return
        async with context.store.read_once() as tx:
            recipient = await context.store.deliveries.find_recipient(tx, message.notification_id, message.delivery_id)
        if recipient is None or event not in policy.list_events(recipient.category):
            return
        occurred_at = now - timedelta(seconds=body.seconds_ago)
        await recorder.record(
            build_event(message, event, user_id=recipient.user_id, action=body.action, occurred_at=occurred_at)
        )
