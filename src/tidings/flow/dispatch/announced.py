"""Tasks that the queue has and the outbox still lists: removed in bulk a little later, not relayed again."""

from collections.abc import Sequence

from tidings.model.task import Task


class Announced:
    """Ids on their way out of the outbox. One event loop only."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def add(self, tasks: Sequence[Task]) -> None:
        self._ids.update(dict.fromkeys(task.id for task in tasks))

    def fresh(self, tasks: Sequence[Task]) -> list[Task]:
        """Return those tasks that the queue does not have yet."""
        return [task for task in tasks if task.id not in self._ids]

    def pending(self) -> list[str]:
        return list(self._ids)

    def forget(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self._ids.pop(task_id, None)
