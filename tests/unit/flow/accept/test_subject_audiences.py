"""A newer notification on a subject supersedes the older ones for its users, and for nobody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tidings.model.audience import Audience, everyone, users
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.subject import SubjectRequest

if TYPE_CHECKING:
    from tests.unit.conftest import Process


@dataclass(frozen=True)
class Trigger:
    """A notification on the subject. names: of its users, `""` = all of them, not as a list."""

    names: str
    version: int | None = None

    @property
    def is_list(self) -> bool:
        return self.names != ""

    def includes(self, name: str) -> bool:
        return name in self.names or not self.is_list

    def is_superseded_for(self, name: str, newer: Trigger) -> bool:
        return newer.includes(name) or not (self.is_list and newer.is_list)


TRIGGERS = st.builds(
    Trigger, st.sampled_from(["a", "b", "c", "ab", "bc", "abc", ""]), st.one_of(st.none(), st.integers(1, 4))
)


@given(st.lists(st.lists(TRIGGERS, min_size=1, max_size=4), min_size=1, max_size=4))
@example([[Trigger("a")], [Trigger("b")]])
@example([[Trigger("ab")], [Trigger("a")], [Trigger("b")]])
@example([[Trigger("a", 2)], [Trigger("b", 3)], [Trigger("a", 1)]])
@example([[Trigger("a", 1)], [Trigger("b", 4)], [Trigger("a", 3)]])
@example([[Trigger("a"), Trigger("b"), Trigger("a")]])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors])
async def test_each_user_receives_what_nothing_newer_supersedes(
    start: Callable[..., Process], transactions: list[list[Trigger]]
) -> None:
    process = start(exclusive=True)
    # the database is that of the examples before
    key = new_id(process.clock.now())
    names = {f"{key}-{letter}": letter for letter in "abc"}
    await process.add_users(*names)
    process.channel.sent.clear()
    accepted: list[tuple[Notification, Trigger]] = []
    for triggers in transactions:
        requests = [
            replace(process.build_request(_audience(one, names)), subject=SubjectRequest(key, one.version))
            for one in triggers
        ]
        async with process.store.transaction() as tx:
            results = await process.pipeline.accept_many(tx, requests)
        found = [one for one in results if isinstance(one, Notification)]
        accepted += zip(found, triggers, strict=True)
    process.clock.advance(timedelta(minutes=1))
    await process.pipeline.batch_due()
    await process.process_queue()
    expected = {
        (notification.id, name): 1
        for notification, trigger in accepted
        for name, letter in names.items()
        if trigger.includes(letter)
        and not any(
            (newer.subject_version or 0) > (notification.subject_version or 0)
            and trigger.is_superseded_for(letter, other)
            for newer, other in accepted
        )
    }
    assert Counter((one.notification_id, one.target.user_id) for one in process.channel.sent) == expected


def _audience(trigger: Trigger, names: dict[str, str]) -> Audience:
    if not trigger.is_list:
        return users(*names) & everyone()
    return users(*(name for name, letter in names.items() if letter in trigger.names))
