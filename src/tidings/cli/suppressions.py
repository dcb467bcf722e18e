"""`tidings suppressions`: list, add and lift suppressed addresses."""

import getpass
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table
from tidings.errors import NotFound, ValidationFailed
from tidings.model.ids import is_id, new_id
from tidings.model.suppression import SuppressionFilter, SuppressionReason

if TYPE_CHECKING:
    from tidings.container import AppContainer

app = App(name="suppressions", help="List, add and lift suppressed addresses.")


@app.command(name="list")
async def list_suppressions(
    *,
    channel: Annotated[str | None, Parameter(help="Channel.")] = None,
    address: Annotated[str | None, Parameter(help="Address; requires --channel.")] = None,
    reason: Annotated[SuppressionReason | None, Parameter(help="Reason.")] = None,
    ended: Annotated[bool, Parameter(help="Include those that were lifted or have expired.")] = False,
    limit: Annotated[int, Parameter(help="Maximum number of results.", validator=Number(gte=1))] = 50,
    before: Annotated[str | None, Parameter(help="Continue before this suppression id.")] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """List suppressed addresses, newest first."""
    from tidings.api.routes.suppressions import SuppressionResponse
    from tidings.container import AppContainer

    if before is not None and not is_id(before):
        raise ValidationFailed("--before: must be the id of a suppression")
    if address is not None and channel is None:
        raise ValidationFailed("--channel: is required with --address")
    async with AppContainer.open(options.require_existing_database()) as runtime:
        if address is not None and channel is not None:
            address = _parse_address(runtime, channel, address)
        selected = SuppressionFilter(channel, address, reason, ended)
        async with runtime.store.read_snapshot() as tx:
            page = await runtime.store.suppressions.page(
                tx, selected, before=before, limit=limit, now=runtime.clock.now()
            )
    if options.json:
        print_json([SuppressionResponse.model_validate(row).json_object() for row in page])
        return
    rows = [
        (
            one.id,
            one.channel,
            one.address or "(erased)",
            one.category or "all",
            one.reason,
            one.count,
            one.last_event_at,
        )
        for one in page
    ]
    columns = ("id", "channel", "address", "scope", "reason", "count", "last")
    print_table(columns, rows, empty="No address is suppressed.")
    if len(page) == limit:
        print_hint(options.complete_commands(f"More: tidings suppressions list --before {page[-1].id}"))


@app.command
async def add(
    channel: Annotated[str, Parameter(help="Channel.")],
    address: Annotated[str, Parameter(help="Address.")],
    *,
    reason: Annotated[SuppressionReason, Parameter(help="Reason.")] = SuppressionReason.MANUAL,
    category: Annotated[str, Parameter(help="Code of the category that is stopped; default: all.")] = "",
    options: CliOptions = CliOptions(),
) -> None:
    """Suppress an address: nothing more is sent to it."""
    from tidings.api.routes.suppressions import SuppressionResponse
    from tidings.container import AppContainer
    from tidings.suppression_service import SuppressionService

    async with AppContainer.open(options.require_existing_database()) as runtime:
        parsed = _parse_address(runtime, channel, address)
        if category and category not in runtime.catalog.categories:
            known = ", ".join(sorted(runtime.catalog.categories))
            raise ValidationFailed(f"--category: {category!r} is not a known category; known are {known}")
        service = SuppressionService(runtime.store, runtime.clock)
        async with runtime.store.transaction() as tx:
            stored = await service.add(
                tx,
                suppression_id=new_id(runtime.clock.now()),
                channel=channel,
                address=parsed,
                reason=reason,
                category=category,
                source="cli",
                author=_operator(),
            )
    if options.json:
        print_json(SuppressionResponse.model_validate(stored).json_object())
    else:
        print(f"{stored.id}: {channel} sends nothing more to {parsed} ({reason.value})")


@app.command
async def remove(
    suppression_id: Annotated[str, Parameter(help="Suppression id.")],
    *,
    reason: Annotated[str, Parameter(help="Why it is lifted; it is kept with the suppression.")],
    options: CliOptions = CliOptions(),
) -> None:
    """Lift a suppression, so that its address is written to again."""
    from tidings.api.routes.suppressions import SuppressionResponse
    from tidings.container import AppContainer
    from tidings.suppression_service import SuppressionService

    if len(reason.strip()) < 3:
        raise ValidationFailed("--reason: must say why, in at least 3 characters")
    async with AppContainer.open(options.require_existing_database()) as runtime:
        service = SuppressionService(runtime.store, runtime.clock)
        async with runtime.store.transaction() as tx:
            try:
                lifted = await service.lift(tx, suppression_id, by=_operator(), reason=reason)
            except NotFound as error:
                raise NotFound(f"{error.message} `tidings suppressions list` shows them.") from error
    if options.json:
        print_json(SuppressionResponse.model_validate(lifted).json_object())
    else:
        print(f"{lifted.id}: lifted; {lifted.channel} sends to {lifted.address or 'the address'} again")


def _operator() -> str:
    """Return the author of a change on the command line: the name of the account on this machine."""
    return f"cli:{getpass.getuser()}"


def _parse_address(runtime: "AppContainer", channel: str, address: str) -> str:
    plugin = runtime.plugins.get(channel)
    if plugin is None:
        known = ", ".join(sorted(runtime.plugins))
        raise ValidationFailed(f"{channel!r} is not an installed channel; installed are {known}")
    try:
        return plugin.parse_address(address, runtime.settings)
    except ValueError as error:
        raise ValidationFailed(f"the address {error}") from error
