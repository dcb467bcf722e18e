"""Clients that send requests during fault injection, and checks of what the API accepted."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.chaos_cluster import build_single_notification, wait_until_final
from tests.support.delivery_audit import DeliveryAudit
from tests.support.server import TidingsServer


@dataclass
class LoadGenerator:
    """Clients that send requests continuously. Each call has its own key and is repeated until it returns 2xx."""

    api: TidingsServer
    user_ids: list[str]
    key_numbers: Iterator[int] = field(default_factory=itertools.count)
    #: key → notification
    accepted: dict[str, str] = field(default_factory=dict)
    status_counts: Counter[int] = field(default_factory=Counter)
    missing_retry_after: int = 0
    _client_tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _is_stopping: bool = False

    def start(self, clients: int = 4) -> None:
        """Start clients that each send one call after another."""
        self._client_tasks = [asyncio.create_task(self._run_client()) for _ in range(clients)]

    async def stop_and_verify(self) -> None:
        """Stop. Assert that every accepted notification was delivered, and that each 503 had Retry-After."""
        self._is_stopping = True
        await asyncio.gather(*self._client_tasks)
        for notification in self.accepted.values():
            assert await wait_until_final(self.api, notification, within=150) == {"delivered": 1}
        assert self.missing_retry_after == 0

    def check_audit(self, audit: DeliveryAudit, broadcast: str, *, max_duplicates: int) -> None:
        """Assert that exactly the broadcast and the accepted notifications were delivered.

        max_duplicates: the guaranteed bound of messages that were sent again.
        """
        users = len(self.user_ids)
        audit.check_consistency()
        # one notification for each key, although responses were lost
        assert set(audit.counts) == {broadcast, *self.accepted.values()}
        assert len(set(self.accepted.values())) == len(self.accepted)
        assert audit.state_counts == {"delivered": users + len(self.accepted)}
        assert len(audit.receipts) == users + len(self.accepted)
        assert audit.duplicates <= max_duplicates

    async def _run_client(self) -> None:
        while not self._is_stopping:
            number = next(self.key_numbers)
            await self._send_until_accepted(f"key-{number}", self.user_ids[number % len(self.user_ids)])

    async def _send_until_accepted(self, key: str, user: str) -> None:
        while key not in self.accepted:
            response = await self.api.call(
                "POST", "/api/notifications", build_single_notification(user), headers={"Idempotency-Key": key}
            )
            self.status_counts[response.status] += 1
            match response.status:
                case 202:
                    self.accepted[key] = response.read(dict[str, Any])["id"]
                case 503:
                    self.missing_retry_after += "retry-after" not in response.headers
                    await asyncio.sleep(0.1)
                case status:
                    raise AssertionError(f"{status}: {response.body[:500]!r}")

    async def has_accepted(self, number: int) -> bool:
        """Whether at least `number` notifications were accepted."""
        return len(self.accepted) >= number

    async def has_rejected(self, number: int) -> bool:
        """Whether at least `number` calls returned 503."""
        return self.status_counts[503] >= number
