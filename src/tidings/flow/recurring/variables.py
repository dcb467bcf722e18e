"""The variables of a run: the stored ones, and those that its source returns at that moment."""

import asyncio

import structlog

from tidings.flow.catalog import Catalog
from tidings.model.recurring import (
    NothingToSend,
    RecurringNotification,
    ResolvedVariables,
    SourceFailed,
    SourceRequest,
    SourceResult,
)
from tidings.ports.pack_context import PackServices
from tidings.ports.recurring import VariablesEndpoints

log = structlog.get_logger(__name__)

#: seconds for a function of a pack
FUNCTION_TIMEOUT = 30.0


class VariableResolver:
    """Asks the sources of recurring notifications. One per process."""

    def __init__(self, catalog: Catalog, services: PackServices, endpoints: VariablesEndpoints) -> None:
        """services: for the functions of packs."""
        self._catalog = catalog
        self._services = services
        self._endpoints = endpoints

    async def resolve(self, recurring: RecurringNotification, request: SourceRequest) -> SourceResult:
        """Return the variables of a run; those of its source replace stored ones. Failures are values."""
        if recurring.variables_url is not None:
            result = await self._endpoints.fetch(recurring.variables_url, request)
        elif recurring.variables_function is not None:
            result = await self._call(recurring.variables_function, request)
        else:
            result = ResolvedVariables({})
        if isinstance(result, ResolvedVariables):
            return ResolvedVariables({**recurring.variables, **result.variables})
        return result

    async def _call(self, name: str, request: SourceRequest) -> SourceResult:
        function = self._catalog.variable_functions.get(name)
        if function is None:
            return SourceFailed(f"no installed pack has the function {name!r}")
        try:
            async with asyncio.timeout(FUNCTION_TIMEOUT):
                variables = await function(request, self._services)
            # raises for what is neither
            return NothingToSend() if variables is None else ResolvedVariables(dict(variables))
        except TimeoutError:
            return SourceFailed(f"the function {name} took more than {FUNCTION_TIMEOUT:g} s")
        except Exception as error:  # code of a pack: its failure is recorded with the run
            log.exception("variables_function_failed", function=name, recurring=request.name)
            return SourceFailed(f"the function {name} raised {type(error).__name__}: {error}")
