"""The tasks that stand for each kind of work."""

from dataclasses import replace
from datetime import timedelta

from tidings.flow.tasks import REPUBLISH_DEDUP_SECONDS, deliver_tasks, fan_out_task, for_republish, next_page_task
from tidings.model.priority import Lane
from tidings.model.task import TaskKind
from tidings.testing.contracts.samples import NOW, make_notification


def test_a_fan_out_is_due_when_the_notification_is_and_never_in_the_past() -> None:
    notification = make_notification()
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


def test_the_id_of_a_task_identifies_the_work() -> None:
    notification = make_notification()
    assert fan_out_task(notification, NOW) == fan_out_task(notification, NOW)
    assert fan_out_task(notification, NOW).id == notification.id
    assert [task.id for task in deliver_tasks(["one", "two"], Lane.LOW, NOW)] == ["one", "two"]


def test_each_later_page_has_a_new_task_id() -> None:
    notification = make_notification()
    tasks = [fan_out_task(notification, NOW), next_page_task(notification, NOW), next_page_task(notification, NOW)]
    assert len({task.id for task in tasks}) == 3
    assert {task.ref for task in tasks} == {notification.id}


def test_republished_tasks_have_one_id_per_half_minute() -> None:
    notification = make_notification()
    first, later = fan_out_task(notification, NOW), next_page_task(notification, NOW)
    [one] = for_republish([first], NOW)
    [two] = for_republish([later], NOW + timedelta(seconds=REPUBLISH_DEDUP_SECONDS - 1))
    [three] = for_republish([later], NOW + timedelta(seconds=REPUBLISH_DEDUP_SECONDS))
    assert (one.id, one.generation) == (two.id, two.generation), "for every process and every next page"
    assert three.generation == two.generation + 1
    assert one.generation > first.generation
