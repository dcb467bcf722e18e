"""Which tasks announce which work."""

from dataclasses import replace
from datetime import timedelta

from tidings.flow.dispatch.tasks import TOLD_TOGETHER, deliver_tasks, fan_out_task, next_page_task, told_again
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


def test_the_id_of_a_task_says_the_work() -> None:
    notification = a_notification()
    assert fan_out_task(notification, NOW) == fan_out_task(notification, NOW)
    assert fan_out_task(notification, NOW).id == notification.id
    assert [task.id for task in deliver_tasks(["one", "two"], Lane.LOW, NOW)] == ["one", "two"]


def test_the_task_of_a_later_page_is_a_new_one_each_time() -> None:
    notification = a_notification()
    tasks = [fan_out_task(notification, NOW), next_page_task(notification, NOW), next_page_task(notification, NOW)]
    assert len({task.id for task in tasks}) == 3
    assert {task.ref for task in tasks} == {notification.id}


def test_what_is_told_again_is_one_task_per_half_minute_and_none_of_those_told_before() -> None:
    notification = a_notification()
    first, later = fan_out_task(notification, NOW), next_page_task(notification, NOW)
    [one] = told_again([first], NOW)
    [two] = told_again([later], NOW + timedelta(seconds=TOLD_TOGETHER - 1))
    [three] = told_again([later], NOW + timedelta(seconds=TOLD_TOGETHER))
    assert (one.id, one.generation) == (two.id, two.generation), "whoever tells it, and whichever page comes next"
    assert three.generation == two.generation + 1
    assert one.generation > first.generation
