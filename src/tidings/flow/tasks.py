"""Builds the tasks that refer to work in the database. Pure.

The id of a task identifies its work, so that a queue discards duplicates. A re-enqueued task has the current period of
`REPUBLISH_DEDUP_SECONDS` as its generation: all workers that re-enqueue it within one period publish the same task, and
it differs from the task that the queue finished earlier.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind

#: seconds in which the same task re-enqueued by several workers counts as one
REPUBLISH_DEDUP_SECONDS = 30


def fan_out_task(notification: Notification, now: datetime) -> Task:
    """Return the task that plans the first page of a notification, due at its `send_at`."""
    due_at = max(now, notification.send_at)
    return Task(notification.id, TaskKind.FAN_OUT, notification.id, notification.priority, due_at)


def next_page_task(notification: Notification, now: datetime) -> Task:
    """Return the task that plans the next page. Its id is new, as the queue may still know the previous task."""
    return replace(fan_out_task(notification, now), id=new_id(now))


def deliver_tasks(batch_ids: Sequence[str], lane: Lane, now: datetime) -> list[Task]:
    """Return one task per batch of deliveries."""
    return [Task(batch_id, TaskKind.DELIVER, batch_id, lane, now) for batch_id in batch_ids]


def for_republish(tasks: Sequence[Task], now: datetime) -> list[Task]:
    """Return the tasks with the current generation, for re-enqueueing."""
    generation = int(now.timestamp()) // REPUBLISH_DEDUP_SECONDS
    return [replace(task, id=task.ref, generation=generation) for task in tasks]
