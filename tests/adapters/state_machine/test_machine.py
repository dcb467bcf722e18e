"""Stateful test of the pipeline: accept, cancel, fail, crash, reset and reconcile in any order.

The invariants are those of docs/explanation/guarantees.md. They are checked against the database and the messages the
provider received, once all work has ended. What must never happen is checked after each step.
"""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.adapters.state_machine.flow_machine import FlowMachine
from tests.adapters.state_machine.machine import Machine
from tests.adapters.state_machine.model_world import Backend

#: of a run of Hypothesis
MAX_EXAMPLES_PER_RUN = 10


def tiers(default: int, full: int) -> pytest.MarkDecorator:
    """Parametrize the number of examples.

    default: of `make test`, 0 = none. full: of `make test-all`; `make chaos` runs ten times as many.
    """
    longer = [pytest.param(full, marks=pytest.mark.extended), pytest.param(10 * full, marks=pytest.mark.long)]
    return pytest.mark.parametrize("examples", [*([default] if default else []), *longer])


def check(machine: type[FlowMachine], examples: int) -> None:
    """Run the machine with so many examples, at most ten of them at a time.

    In longer runs most examples are slight variations of each other.
    """
    for begin in range(0, examples, MAX_EXAMPLES_PER_RUN):
        options = settings(
            max_examples=min(MAX_EXAMPLES_PER_RUN, examples - begin),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(machine, settings=options)


@tiers(6, 80)
def test_two_workers_on_lanes_in_memory(on_sqlite: Backend, examples: int) -> None:
    check(type("Two", (Machine,), {"backend": on_sqlite}), examples)


@tiers(0, 30)
def test_two_workers_that_reach_rate_limits(on_sqlite: Backend, examples: int) -> None:
    check(type("Limited", (Machine,), {"backend": on_sqlite, "user_limit": 3}), examples)


@tiers(0, 40)
def test_one_process_with_exclusive_use_of_the_database(on_sqlite: Backend, examples: int) -> None:
    check(type("Alone", (Machine,), {"backend": replace(on_sqlite, is_exclusive=True)}), examples)


# `make test-all` runs as few as `make test`, because they take as long as ten times as many on SQLite
@pytest.mark.parametrize("examples", [6, pytest.param(100, marks=pytest.mark.long)])
def test_two_workers_on_postgresql_and_valkey(on_servers: Backend, examples: int) -> None:
    check(type("Scaled", (Machine,), {"backend": on_servers, "start": datetime.now(UTC)}), examples)
