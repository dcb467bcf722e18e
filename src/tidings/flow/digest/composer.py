"""Builds the notification that a digest becomes. Pure."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from tidings.errors import ValidationFailed
from tidings.flow.catalog import Catalog
from tidings.flow.plan.collection import list_collected_channels
from tidings.flow.plan.digest_content import build_digest_variables
from tidings.model.audience import users
from tidings.model.awaited_event import OccurredEvents
from tidings.model.delivery import Recipient
from tidings.model.digest import Digest
from tidings.model.notification import DigestPart, Notification
from tidings.model.plan_options import PlanOptions, Step
from tidings.model.priority import LANES
from tidings.model.template import RenderedMessage
from tidings.ports.renderer import Renderer


class RemainingItem(NamedTuple):
    """An item that stays in its digest."""

    notification: Notification
    #: channels on which it is not shown
    left_out_on: Collection[str] = ()


class RenderedItem(NamedTuple):
    """An item with its text in the language of the user."""

    notification: Notification
    message: RenderedMessage


def render_item(
    notification: Notification, recipient: Recipient, catalog: Catalog, renderer: Renderer
) -> RenderedMessage:
    """Return the text of an item, in the current version of its template.

    If the variables of the notification do not suffice for that, it is rendered in the version with which it was
    accepted. Raises ValidationFailed if that fails, too.
    """
    current = catalog.get_template(notification.template_code)
    try:
        return renderer.render(current, notification, recipient.locale, recipient.timezone)
    except ValidationFailed:
        pinned = catalog.get_template(notification.template_code, notification.template_version)
        if pinned.version == current.version:
            raise
        return renderer.render(pinned, notification, recipient.locale, recipient.timezone)


def find_step_source(items: Sequence[Notification], happened: Mapping[str, OccurredEvents]) -> Notification:
    """Return the item whose steps the notification of a digest has.

    It is the newest one for which none of the domain events came that its steps await. If they came for all items, it
    is the newest. happened: notification id → events that came.
    """
    return next((one for one in reversed(items) if not happened.get(one.id)), items[-1])


def build_digest_notification(
    digest: Digest,
    shown: Sequence[RenderedItem],
    kept: Sequence[RemainingItem],
    catalog: Catalog,
    *,
    steps: Sequence[Step],
    notification_id: str,
    now: datetime,
) -> Notification:
    """Return the notification for the items of a digest, which are in their order and at least one.

    shown: the items with their texts that are the first ones on some channel.
    """
    template = catalog.get_digest_template(digest.key.template_code)
    items = [one.notification for one in kept]
    newest = items[-1]
    return Notification(
        id=notification_id,
        template_code=template.code,
        template_version=template.version,
        category=newest.category,
        audience=users(digest.key.user_id),
        variables=build_digest_variables(len(items), [_describe_item(one) for one in shown]),
        priority=min((one.priority for one in items), key=LANES.index),
        channels=list_collected_channels(newest),
        action_url=None,
        action_text=None,
        send_at=now,
        expires_at=max(one.expires_at for one in items),
        created_at=now,
        source=f"digest:{digest.id}",
        plan=PlanOptions(steps=tuple(steps), channel_selection=newest.plan.channel_selection),
        digest_id=digest.id,
        parts=[
            DigestPart(one.notification.id, one.notification.subject, one.notification.variables, one.left_out_on)
            for one in kept
        ],
    )


def _describe_item(shown: RenderedItem) -> dict[str, object]:
    """Return an item as templates see it: the variables of its notification, title, body and url.

    The variables are also given under `variables`, for those named `title`, `body` or `url`.
    """
    variables = dict(shown.notification.variables)
    message = shown.message
    text = {"title": message.title, "body": message.body, "url": message.url}
    return {**variables, **text, "variables": variables, "notificationId": shown.notification.id}
