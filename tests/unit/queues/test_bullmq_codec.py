"""The data of a lane's job round-trips. Any other data is rejected with a reason."""

import pytest

from tidings.errors import ValidationFailed
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.queues.bullmq_codec import decode_tasks, encode_data
from tidings.testing.clock import START


def test_encoded_tasks_are_decoded_unchanged() -> None:
    tasks = [
        Task(f"t{number}", TaskKind.DELIVER, f"b{number}", Lane.HIGH, START, generation=number) for number in (1, 2)
    ]
    assert decode_tasks("deliver", encode_data(tasks), Lane.HIGH) == tasks


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
def test_data_of_other_producers_is_rejected(name: str, data: object) -> None:
    with pytest.raises(ValidationFailed):
        decode_tasks(name, data, Lane.HIGH)
