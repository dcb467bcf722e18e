"""Which tasks announce which work. Pure.

The id of a task says the work, so that a queue recognises a repeat. What a sweep tells again has the half minute as
its generation: however many workers sweep in it, it is one task, and not the one that the queue finished earlier.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind

#: seconds in which what several workers tell again is one task
TOLD_TOGETHER = 30


def fan_out_task(notification: Notification, now: datetime) -> Task:
    """Return the task that plans the first page of a notification, due when the notification is."""
    due_at = max(now, notification.send_at)
    return Task(notification.id, TaskKind.FAN_OUT, notification.id, notification.priority, due_at)


def next_page_task(notification: Notification, now: datetime) -> Task:
    """Return the task that goes on with a notification: a new one each time, as the queue may still know the last."""
    return replace(fan_out_task(notification, now), id=new_id(now))


def deliver_tasks(batch_ids: Sequence[str], lane: Lane, now: datetime) -> list[Task]:
    """Return one task for each batch of deliveries."""
    return [Task(batch_id, TaskKind.DELIVER, batch_id, lane, now) for batch_id in batch_ids]


def told_again(tasks: Sequence[Task], now: datetime) -> list[Task]:
    """Return the tasks as a sweep tells them: recognisable for a while, new to a queue that finished them."""
    generation = int(now.timestamp()) // TOLD_TOGETHER
    return [replace(task, id=task.ref, generation=generation) for task in tasks]
