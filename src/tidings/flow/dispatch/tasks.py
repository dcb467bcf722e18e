"""Which tasks announce which work. Pure."""

from collections.abc import Sequence
from datetime import datetime

from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind


def fan_out_task(notification: Notification, now: datetime) -> Task:
    """Return the task that plans the (next) page of a notification, due when the notification is."""
    return Task(new_id(now), TaskKind.FAN_OUT, notification.id, notification.priority, max(now, notification.send_at))


def deliver_tasks(batch_ids: Sequence[str], lane: Lane, now: datetime) -> list[Task]:
    """Return one task for each batch of deliveries."""
    return [Task(new_id(now), TaskKind.DELIVER, batch_id, lane, now) for batch_id in batch_ids]
