"""Which tasks announce which work."""

from dataclasses import replace
from datetime import timedelta

from tidings.flow.dispatch.tasks import deliver_tasks, fan_out_task
from tidings.model.priority import Lane
from tidings.model.task import TaskKind
from tidings.testing.contracts.samples import NOW, a_notification


def test_a_fan_out_is_due_when_the_notification_is_and_never_in_the_past() -> None:
    notification = a_notification()
    for send_at in (NOW - timedelta(hours=1), NOW, NOW + timedelta(hours=1)):
        task = fan_out_task(replace(notification, send_at=send_at), NOW)
        assert (task.kind, task.ref, task.lane) == (TaskKind.FAN_OUT, notification.id, notification.priority)
        assert task.due_at == max(send_at, NOW)


def test_each_batch_is_one_task_on_its_lane() -> None:
    tasks = deliver_tasks(["one", "two"], Lane.LOW, NOW)
    assert [(task.kind, task.ref, task.lane, task.due_at) for task in tasks] == [
        (TaskKind.DELIVER, "one", Lane.LOW, NOW),
        (TaskKind.DELIVER, "two", Lane.LOW, NOW),
    ]
    assert len({task.id for task in tasks}) == 2
