"""The state machine of plain notifications: accept, cancel, fail, crash, reset and reconcile in any order."""

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from tests.adapters.state_machine.faulty_store import CommitFault
from tests.adapters.state_machine.flow_machine import FlowMachine, faults, indexes
from tests.adapters.state_machine.invariants import ExpectedNotification, read_stored_rows
from tests.adapters.state_machine.model_world import DEVICES, SharedMemoryQueue, World
from tests.adapters.state_machine.process import SimulatedProcess

from tidings.errors import BackendError
from tidings.flow.accept.external_jobs import AcceptedPart, JobPart
from tidings.model import audience
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.testing.clock import FrozenClock

ALL_USERS = tuple(DEVICES)
#: user ids of each audience; None = everyone, over several pages
AUDIENCES: Sequence[tuple[str, ...] | None] = (None, ("ana",), ("ben",), ("ana", "ben"), ("cem", "gus", "fay", "eli"))
#: idempotency key → user ids of the request
USERS_BY_KEY = {"k1": ("ana",), "k2": ("ben", "dora")}


class Machine(FlowMachine):
    """Applies events to a world, and records which requests were accepted."""

    user_limit: ClassVar[int] = 20

    def __init__(self) -> None:
        #: source → the request
        self.expected: dict[str, ExpectedNotification] = {}
        #: idempotency key → id of the accepted notification
        self.accepted_ids: dict[str, str] = {}
        super().__init__()

    def create_world(self, clock: FrozenClock) -> World:
        return World(self.backend, clock, self.user_limit)

    @initialize()
    def accept_news_to_everyone(self) -> None:
        self.accept(None, "NEWS", None, None, None, 1, 2, CommitFault.NONE, is_away=False)

    # accept ---------------------------------------------------------------------------------------------------------

    @rule(
        user_ids=st.sampled_from(AUDIENCES),
        template=st.sampled_from(("NEWS", "NEWS", "DUTY")),
        priority=st.sampled_from((None, None, Priority.URGENT, Priority.LOW)),
        delay=st.sampled_from((None, None, 30, 600, 7200)),
        ttl=st.sampled_from((None, None, 1, 20, 90)),
        count=st.sampled_from((1, 1, 1, 8)),
        by=indexes,
        fault=faults,
        is_away=st.sampled_from((False, False, True)),
    )
    def accept(
        self,
        user_ids: tuple[str, ...] | None,
        template: str,
        priority: Priority | None,
        delay: float | None,
        ttl: float | None,
        count: int,
        by: int,
        fault: CommitFault,
        *,
        is_away: bool,
    ) -> None:
        now = self.world.clock.now()
        send_at = None if delay is None else now + timedelta(seconds=delay)
        expires_at = None if ttl is None else (send_at or now) + timedelta(seconds=ttl)
        source = f"request:{len(self.expected)}"
        request = NotifyRequest(
            template,
            audience.everyone() if user_ids is None else audience.users(*user_ids),
            {"title": "Hello"},
            priority=priority,
            send_at=send_at,
            expires_at=expires_at,
            source=source,
        )
        is_rate_limited = template == "NEWS" and priority is not Priority.URGENT
        expected_count = 0 if fault is CommitFault.NOT_APPLIED else count
        self.expected[source] = ExpectedNotification(
            ALL_USERS if user_ids is None else user_ids, is_rate_limited, expected_count
        )
        queue = self.world.memory_queue
        if isinstance(queue, SharedMemoryQueue):
            queue.is_away = is_away
        self.run(self.accept_requests([request] * count, self.process(by), fault))
        if isinstance(queue, SharedMemoryQueue):
            queue.is_away = False

    def build_request(self) -> NotifyRequest:
        source = f"request:{len(self.expected)}"
        self.expected[source] = ExpectedNotification(ALL_USERS, is_rate_limited=True)
        return NotifyRequest("NEWS", audience.everyone(), {"title": "Hello"}, source=source)

    @rule(key=st.sampled_from(sorted(USERS_BY_KEY)), by=indexes, fault=faults)
    def accept_once(self, key: str, by: int, fault: CommitFault) -> None:
        """Accept under an idempotency key that may have been used before; the caller repeats a call without reply."""
        self.expected[f"key:{key}"] = ExpectedNotification(USERS_BY_KEY[key], is_rate_limited=True)
        accepted = self.run(self._accept_once(key, self.process(by), fault))
        assert self.accepted_ids.setdefault(key, accepted) == accepted, "one key accepted two notifications"
        self.notification_ids.append(accepted)

    async def _accept_once(self, key: str, by: SimulatedProcess, fault: CommitFault) -> str:
        def request(user_ids: Sequence[str]) -> NotifyRequest:
            return NotifyRequest("NEWS", audience.users(*user_ids), {"title": "Hello"}, source=f"key:{key}")

        by.store.next_fault = fault
        while True:
            try:
                [result] = await by.acceptor.accept([JobPart("shop", key, USERS_BY_KEY[key], request)])
            except BackendError:
                continue
            assert isinstance(result, AcceptedPart)
            assert result.id is not None
            return result.id

    @rule(user=st.sampled_from(ALL_USERS))
    def subscribe_again(self, user: str) -> None:
        self.run(self.world.register(user))

    async def check_when_idle(self) -> None:
        await self.world.run_until_idle()
        self.nothing_is_sent_after_a_confirmed_cancellation()
        async with self.world.store.read_snapshot() as tx:
            stored_rows = await read_stored_rows(tx)
        stored_rows.check(self.expected, self.world.provider_log, self.replay_counts)
        stored_rows.check_limits(self.expected, self.user_limit, self.world.total_set_back)
