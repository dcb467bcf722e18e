"""Accept, cancel, fail, kill, flush and reconcile in any order: nothing is lost, nothing is said twice for no reason.

The rules are those of facts/queue.md. They are checked when everything has come to rest, against the database and what
the provider got; what may never happen at all is checked after each step.
"""

import os
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.contract.machine.machine import Machine
from tests.contract.machine.world import Backend

#: `make chaos` takes ten times as many runs
RUNS = 10 if os.environ.get("TIDINGS_CHAOS") == "long" else 1


def check(machine: type[Machine], *, runs: int) -> None:
    """Run the machine so many times ten; ten at a time, as of more in one go most are slight changes of each other."""
    options = settings(max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    for _ in range(runs * RUNS):
        run_state_machine_as_test(machine, settings=options)


def test_two_workers_on_lanes_in_memory(on_sqlite: Backend) -> None:
    check(type("Two", (Machine,), {"backend": on_sqlite}), runs=8)


def test_two_workers_where_limits_are_reached(on_sqlite: Backend) -> None:
    check(type("Limited", (Machine,), {"backend": on_sqlite, "user_limit": 3}), runs=3)


def test_one_process_that_has_everything_to_itself(on_sqlite: Backend) -> None:
    check(type("Alone", (Machine,), {"backend": replace(on_sqlite, alone=True)}), runs=4)


def test_two_workers_on_postgresql_and_valkey(on_servers: Backend) -> None:
    check(type("Scaled", (Machine,), {"backend": on_servers, "start": datetime.now(UTC)}), runs=1)
