"""The state of the providers, over all processes."""

from datetime import datetime

from fastapi import APIRouter, Depends

from tidings.api.context import RouteContext
from tidings.container import AppContainer
from tidings.model.provider import ProviderState
from tidings.observability.provider_status import ProviderReport, load_provider_reports
from tidings.schemas.response_models import ResponseModel


class ProviderResponse(ResponseModel):
    """One provider. Rates and counts are sums over the processes; state and circuit are the worst of them."""

    channel: str
    name: str
    #: `out`: taken out after failures, except for probes; `recovering`: it receives a growing share
    state: ProviderState
    #: `closed`, `half_open` or `open`
    circuit: str
    #: share of the messages relative to the other providers; null: the recipient decides, as with push services
    weight: int | None
    #: the share that it receives now
    effective_weight: float | None
    #: messages per second
    rate: float
    #: the most messages per second that it receives; null: no limit
    rate_limit: float | None
    #: requests of the last minute, and how many of them failed
    requests: int
    errors: int
    #: processes that send over it, and how many of them have taken it out
    processes: int
    processes_out: int
    #: the oldest report of a process in these figures; processes report every five seconds
    reported_at: datetime


class ProvidersResponse(ResponseModel):
    """The providers of all channels, by channel and name."""

    providers: list[ProviderResponse]


def router(context: RouteContext) -> APIRouter:
    """Return the route /providers."""
    routes = APIRouter(tags=["providers"])

    @routes.get("/providers")
    async def providers(_: str = Depends(context.require_scopes("read"))) -> ProvidersResponse:
        """Return the state of each provider, added up over all running workers."""
        return await load_providers(context.runtime)

    return routes


async def load_providers(runtime: AppContainer) -> ProvidersResponse:
    """Return the providers. Raises BackendError when the database does not respond."""
    reports = await load_provider_reports(runtime.store, runtime.clock)
    return ProvidersResponse(providers=[_provider_response(report) for report in reports])


def _provider_response(report: ProviderReport) -> ProviderResponse:
    status = report.status
    return ProviderResponse(
        channel=status.channel,
        name=status.name,
        state=status.state,
        circuit=status.circuit,
        weight=status.weight,
        effective_weight=status.effective_weight,
        rate=status.rate,
        rate_limit=status.rate_limit,
        requests=status.requests,
        errors=status.errors,
        processes=report.processes,
        processes_out=report.processes_out,
        reported_at=report.reported_at,
    )
