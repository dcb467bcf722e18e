"""Assertions on what a product has notified its users of, for the tests of this product."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from tidings.model.delivery import DeliveryState
from tidings.model.notification import Notification
from tidings.model.trace import DeliveryTrace, SkipTrace

#: seconds between two looks at the database
_POLL_INTERVAL = 0.02


class UserNotification(Protocol):
    """A notification with its deliveries and skips, such as `tidings.NotificationTrace`."""

    @property
    def notification(self) -> Notification: ...
    @property
    def deliveries(self) -> Sequence[DeliveryTrace]: ...
    @property
    def skips(self) -> Sequence[SkipTrace]: ...


class NotificationSource(Protocol):
    """Lists the notifications of a user. `tidings.Tidings` does."""

    async def list_notifications(self, user_id: str, *, limit: int = 20) -> Sequence[UserNotification]: ...


async def assert_notified(
    tidings: NotificationSource,
    user_id: str,
    *,
    template: str | None = None,
    channel: str | None = None,
    variables: Mapping[str, object] | None = None,
    state: DeliveryState | str | None = None,
    times: int | None = None,
    within: float = 10.0,
) -> UserNotification:
    """Wait for a notification to a user that matches, and return it: the newest of the last twenty.

    Arguments: template — its code; channel — on which it has a delivery; variables — some of its variables; state — of
    a delivery, such as `delivered`; times — how many must match, None = at least one; within — seconds until it must
    be planned, or have this state. Raises AssertionError that lists what the user was notified of instead, with the
    reason of each skip.
    """
    deadline = asyncio.get_running_loop().time() + within
    while True:
        known = await tidings.list_notifications(user_id)
        found = [one for one in known if _matches(one, template, channel, variables, state)]
        is_met = bool(found) if times is None else len(found) == times
        if is_met or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(_POLL_INTERVAL)
    if not is_met:
        wanted = {"template": template, "channel": channel, "variables": variables, "state": state}
        described = ", ".join(f"{name}={value!r}" for name, value in wanted.items() if value is not None)
        expected = "one or more" if times is None else str(times)
        history = "\n".join(f"  {_describe(one)}" for one in known) or "  nothing"
        raise AssertionError(
            f"{user_id} has {len(found)} notifications that match ({described or 'any'}), expected {expected}; "
            f"the newest are:\n{history}"
        )
    return found[0]


async def assert_not_notified(
    tidings: NotificationSource, user_id: str, *, template: str | None = None, channel: str | None = None
) -> None:
    """Raise AssertionError that lists them if one of a user's last twenty notifications has a matching delivery.

    It looks once. What is still being planned is not seen, so wait for something that happens later first.
    """
    known = await tidings.list_notifications(user_id)
    found = [one for one in known if one.deliveries and _matches(one, template, channel, None, None)]
    if found:
        history = "\n".join(f"  {_describe(one)}" for one in found)
        raise AssertionError(f"{user_id} was notified:\n{history}")


def _matches(
    one: UserNotification,
    template: str | None,
    channel: str | None,
    variables: Mapping[str, object] | None,
    state: DeliveryState | str | None,
) -> bool:
    if template is not None and one.notification.template_code != template:
        return False
    if variables is not None and any(
        name not in one.notification.variables or one.notification.variables[name] != value
        for name, value in variables.items()
    ):
        return False
    return any(
        (channel is None or delivery.channel == channel) and (state is None or delivery.state == state)
        for delivery in one.deliveries
    )


def _describe(one: UserNotification) -> str:
    deliveries = [f"{delivery.channel} {delivery.state}" for delivery in one.deliveries]
    skips = [f"{skip.channel} skipped: {skip.reason}" for skip in one.skips]
    what = ", ".join([*deliveries, *skips]) or "not planned yet"
    return f"{one.notification.template_code} {dict(one.notification.variables)} ({what})"
