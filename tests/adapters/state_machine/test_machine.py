"""Stateful test of the pipeline: accept, cancel, fail, crash, reset and reconcile in any order.

The invariants are those of docs/explanation/guarantees.md. They are checked against the database and the messages the
provider received, once all work has ended. What must never happen is checked after each step.
"""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.adapters.state_machine.machine import Machine
from tests.adapters.state_machine.model_world import Backend


def tiers(default: int, full: int) -> pytest.MarkDecorator:
    """Parametrize the number of runs: in `make test` (0 = none), in `make test-all`; ten times that in `make chaos`."""
    longer = [pytest.param(full, marks=pytest.mark.extended), pytest.param(10 * full, marks=pytest.mark.long)]
    return pytest.mark.parametrize("runs", [*([default] if default else []), *longer])


def check(machine: type[Machine], *, runs: int) -> None:
    """Run the machine `runs` times with ten examples each.

    In longer runs most examples are slight variations of each other.
    """
    options = settings(max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    for _ in range(runs):
        run_state_machine_as_test(machine, settings=options)


@tiers(1, 8)
def test_two_workers_on_lanes_in_memory(on_sqlite: Backend, runs: int) -> None:
    check(type("Two", (Machine,), {"backend": on_sqlite}), runs=runs)


@tiers(0, 3)
def test_two_workers_that_reach_rate_limits(on_sqlite: Backend, runs: int) -> None:
    check(type("Limited", (Machine,), {"backend": on_sqlite, "user_limit": 3}), runs=runs)


@tiers(0, 4)
def test_one_process_with_exclusive_use_of_the_database(on_sqlite: Backend, runs: int) -> None:
    check(type("Alone", (Machine,), {"backend": replace(on_sqlite, is_exclusive=True)}), runs=runs)


# `make test-all` also does a single run, because it takes as long as ten on SQLite
@pytest.mark.parametrize("runs", [1, pytest.param(10, marks=pytest.mark.long)])
def test_two_workers_on_postgresql_and_valkey(on_servers: Backend, runs: int) -> None:
    check(type("Scaled", (Machine,), {"backend": on_servers, "start": datetime.now(UTC)}), runs=runs)
