"""The providers of several processes: added up from their heartbeats."""

from datetime import timedelta

import msgspec

from tidings.model.check import CheckResult
from tidings.model.provider import ProviderState, ProviderStatus
from tidings.observability.provider_status import check_providers, describe_providers, merge_reports
from tidings.ports.operations import Process
from tidings.testing.clock import START

WORKING = ProviderStatus(
    channel="email",
    name="relay:587",
    state=ProviderState.ACTIVE,
    circuit="closed",
    weight=70,
    effective_weight=70.0,
    rate=10.0,
    rate_limit=None,
    requests=600,
    errors=1,
    requests_total=5000,
    errors_total=3,
    outages_total=0,
)
OUT = msgspec.structs.replace(
    WORKING, state=ProviderState.OUT, circuit="open", effective_weight=0.0, rate=0.0, errors=9, outages_total=1
)


def make_process(number: int, *statuses: ProviderStatus, age: float = 0) -> Process:
    # as the database returns it
    detail = msgspec.json.decode(msgspec.json.encode(describe_providers(statuses)))
    return Process(str(number), "worker", "host", number, START, START - timedelta(seconds=age), detail)


def test_figures_are_added_and_the_worst_state_is_shown() -> None:
    [report] = merge_reports([make_process(1, WORKING, age=4), make_process(2, OUT, age=1)])
    assert (report.processes, report.processes_out) == (2, 1)
    assert report.reported_at == START - timedelta(seconds=4), "the oldest"
    status = report.status
    assert (status.state, status.circuit, status.weight, status.effective_weight) == (ProviderState.OUT, "open", 70, 35)
    assert (status.rate, status.requests, status.errors, status.outages_total) == (10.0, 1200, 10, 1)


def test_a_limit_is_shown_only_if_every_process_has_one() -> None:
    limited = msgspec.structs.replace(WORKING, rate_limit=5.0)
    assert merge_reports([make_process(1, limited), make_process(2, limited)])[0].status.rate_limit == 10
    assert merge_reports([make_process(1, limited), make_process(2, WORKING)])[0].status.rate_limit is None


def test_providers_are_listed_by_channel_and_name_and_processes_without_any_are_left_out() -> None:
    sms = msgspec.structs.replace(WORKING, channel="sms", name="a")
    reports = merge_reports([make_process(1, sms, WORKING), make_process(2), Process("3", "api", "h", 3, START, START)])
    assert [(report.status.channel, report.status.name) for report in reports] == [("email", "relay:587"), ("sms", "a")]


def test_a_process_of_another_version_does_not_hide_the_others() -> None:
    strange = Process("9", "worker", "host", 9, START, START, {"providers": [{"channel": "email"}]})
    assert len(merge_reports([strange, make_process(1, WORKING)])) == 1


def test_the_doctor_warns_of_a_provider_that_is_out() -> None:
    assert check_providers([]) == []
    [fine] = check_providers(merge_reports([make_process(1, WORKING)]))
    assert fine == CheckResult("ok", "providers", "email relay:587 (active)")
    [warning] = check_providers(merge_reports([make_process(1, WORKING), make_process(2, OUT)]))
    assert (warning.level, warning.check) == ("warning", "provider email relay:587")
    assert warning.message.startswith("is taken out after failures in 1 of 2 processes")
