"""What a job of a lane carries: ours is read back, everything else is refused with a reason."""

import pytest

from tidings.errors import Invalid
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.queues.bullmq_jobs import data_of, tasks_of
from tidings.testing.clock import START


def test_what_we_write_is_what_we_read() -> None:
    tasks = [
        Task(f"t{number}", TaskKind.DELIVER, f"b{number}", Lane.HIGH, START, generation=number) for number in (1, 2)
    ]
    assert tasks_of("deliver", data_of(tasks), Lane.HIGH) == tasks


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("deliver", {"v": 2, "ids": [["t", "b", 0, 0]]}),
        ("deliver", {"v": 1, "ids": [["t", "b", 0, 99999999999999999999]]}),
        ("deliver", {"v": 1, "ids": [["t", "b", 0, 10**18]]}),
        ("deliver", {"v": 1, "ids": [["t", "b"]]}),
        ("deliver", ["t"]),
        ("publish", {"v": 1, "ids": []}),
    ],
)
def test_what_is_not_ours_is_refused_whatever_it_holds(name: str, data: object) -> None:
    with pytest.raises(Invalid):
        tasks_of(name, data, Lane.HIGH)
