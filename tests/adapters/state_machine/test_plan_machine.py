"""Stateful test of digests, quiet hours, later steps and "seen": in any order, at the same time, and with all faults.

Each trigger ends in exactly one digest, alone, or skipped with a reason. Nothing is sent in quiet hours, after an
opt-out, or as a step that the user or the host made unnecessary. Nothing held or collected is lost.
"""

from datetime import UTC, datetime

import pytest
from tests.adapters.state_machine.model_world import Backend
from tests.adapters.state_machine.plan_machine import PlanMachine
from tests.adapters.state_machine.test_machine import check, tiers


@tiers(4, 40)
def test_c3_digests_and_steps_on_lanes_in_memory(on_sqlite: Backend, examples: int) -> None:
    check(type("Plan", (PlanMachine,), {"backend": on_sqlite}), examples)


# `make test-all` runs as few as `make test`, because they take as long as several times as many on SQLite
@pytest.mark.parametrize("examples", [3, pytest.param(60, marks=pytest.mark.long)])
def test_c3_digests_and_steps_on_postgresql_and_valkey(on_servers: Backend, examples: int) -> None:
    check(type("ScaledPlan", (PlanMachine,), {"backend": on_servers, "start": datetime.now(UTC)}), examples)
