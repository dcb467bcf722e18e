"""The providers of all processes: each worker reports its own with its heartbeats, and any process adds them up."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from tidings.model.check import CheckResult
from tidings.model.provider import ProviderState, ProviderStatus, merge_statuses
from tidings.observability.system_status import list_live_processes
from tidings.ports.channel import Channel, HasProviders
from tidings.ports.clock import Clock
from tidings.ports.operations import Process
from tidings.ports.store import Store

#: key in the detail of a heartbeat
_KEY = "providers"


@dataclass(frozen=True, slots=True)
class ProviderReport:
    """One provider as all processes with a recent heartbeat see it."""

    status: ProviderStatus
    #: processes that send over it, and how many of them have taken it out
    processes: int
    processes_out: int
    #: the oldest of the heartbeats from which this was added up
    reported_at: datetime


def list_providers(channels: Mapping[str, Channel]) -> Sequence[ProviderStatus]:
    """Return the state of the providers as this process sees them."""
    return [
        status
        for channel in channels.values()
        if isinstance(channel, HasProviders)
        for status in channel.list_providers()
    ]


def describe_providers(statuses: Iterable[ProviderStatus]) -> Mapping[str, object]:
    """Return what a heartbeat says about the providers of its process."""
    return {_KEY: [msgspec.to_builtins(status) for status in statuses]}


async def load_provider_reports(store: Store, clock: Clock) -> Sequence[ProviderReport]:
    """Return the providers by channel and name, as old as the heartbeats: five seconds while processes are well.

    Raises BackendError if the database does not respond in time.
    """
    return merge_reports(await list_live_processes(store, clock))


def merge_reports(processes: Sequence[Process]) -> Sequence[ProviderReport]:
    """Return what several processes report, by channel and name."""
    found: defaultdict[tuple[str, str], list[tuple[Process, ProviderStatus]]] = defaultdict(list)
    for process in processes:
        for status in _read_statuses(process):
            found[status.channel, status.name].append((process, status))
    return [
        ProviderReport(
            merge_statuses(name, [status for _, status in reports]),
            processes=len(reports),
            processes_out=sum(status.state is ProviderState.OUT for _, status in reports),
            reported_at=min(process.seen_at for process, _ in reports),
        )
        for (_, name), reports in sorted(found.items())
    ]


def check_providers(reports: Sequence[ProviderReport]) -> Sequence[CheckResult]:
    """Return the lines of `tidings doctor`: a warning for each provider that is taken out, else one line for all."""
    out = [report for report in reports if report.processes_out]
    if not out:
        names = ", ".join(f"{one.status.channel} {one.status.name} ({one.status.state.value})" for one in reports)
        return [CheckResult("ok", "providers", names)] if names else []
    return [
        CheckResult(
            "warning",
            f"provider {report.status.channel} {report.status.name}",
            f"is taken out after failures in {report.processes_out} of {report.processes} processes; "
            "the alert provider_out has the last answer",
        )
        for report in out
    ]


def _read_statuses(process: Process) -> Sequence[ProviderStatus]:
    """Return the providers of a heartbeat, none if a process of another version writes them in another form."""
    try:
        return msgspec.convert(process.detail.get(_KEY, []), list[ProviderStatus])
    except msgspec.ValidationError:
        return []
