"""`tidings recurring`: list recurring notifications and their runs, and run one now."""

from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table
from tidings.errors import ValidationFailed
from tidings.model.ids import is_id
from tidings.model.recurring import RunState

app = App(name="recurring", help="List and run recurring notifications.")


@app.command(name="list")
async def list_recurring(
    *,
    limit: Annotated[int, Parameter(help="Maximum number of results.", validator=Number(gte=1))] = 50,
    after: Annotated[str | None, Parameter(help="Continue after this name.")] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """List recurring notifications in the order of their names."""
    from tidings.api.schemas.recurring import RecurringResponse
    from tidings.container import AppContainer

    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.read_snapshot() as tx:
        page = await runtime.store.recurring.page(tx, after=after, limit=limit)
        last_runs = await runtime.store.recurring.find_last_runs(tx, [one.name for one in page])
    states = {name: last.state.value for name, last in last_runs.items()}
    responses = [RecurringResponse.from_recurring(one) for one in page]
    if options.json:
        print_json([one.json_object() | {"lastRunState": states.get(one.name)} for one in responses])
        return
    rows = [
        (
            one.name,
            one.template_code,
            ", ".join(one.at),
            one.timezone,
            one.next_run_at or "paused",
            states.get(one.name, "-"),
        )
        for one in responses
    ]
    heads = ("name", "template", "at", "zone", "next", "last run")
    print_table(heads, rows, empty="There are no recurring notifications.")
    if len(page) == limit:
        print_hint(options.complete_commands(f"More: tidings recurring list --after {page[-1].name}"))


@app.command
async def runs(
    name: Annotated[str | None, Parameter(help="Name of the recurring notification.")] = None,
    *,
    limit: Annotated[int, Parameter(help="Maximum number of results.", validator=Number(gte=1))] = 20,
    before: Annotated[str | None, Parameter(help="Continue before this run id.")] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """List the runs of a recurring notification, newest first. Without NAME: all that are pending, the next first."""
    from tidings.api.schemas.recurring import RecurringRunResponse
    from tidings.container import AppContainer

    if before is not None and not is_id(before):
        raise ValidationFailed("--before: must be the id of a run")
    if before is not None and name is None:
        raise ValidationFailed("--before: needs the name of a recurring notification")
    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.read_snapshot() as tx:
        if name is None:
            page = await runtime.store.recurring.list_pending_runs(tx, limit=limit)
        else:
            await runtime.recurring.get(tx, name)
            page = await runtime.store.recurring.list_runs(tx, name, before=before, limit=limit)
    if options.json:
        print_json([RecurringRunResponse.from_run(one).json_object() for one in page])
        return
    rows = [
        (
            one.id,
            one.name,
            one.scheduled_at,
            one.state.value,
            one.attempts,
            (one.due_at if one.state is RunState.PENDING else None) or "-",
            one.notification_id or one.reason or "-",
        )
        for one in page
    ]
    heads = ("id", "name", "scheduled", "state", "attempts", "next attempt", "notification or reason")
    print_table(heads, rows, empty="No run is pending." if name is None else f"{name} has no runs yet.")
    if len(page) == limit and name is not None:
        print_hint(options.complete_commands(f"More: tidings recurring runs {name} --before {page[-1].id}"))


@app.command
async def run(
    name: Annotated[str, Parameter(help="Name of the recurring notification.")],
    *,
    repeat: Annotated[
        str | None, Parameter(help="Id of a run that failed, was missed or was cancelled: make it again for its users.")
    ] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """Run a recurring notification now, for its whole audience. A worker makes the run within a second."""
    from tidings.api.schemas.recurring import RecurringRunResponse
    from tidings.container import AppContainer

    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.transaction() as tx:
        if repeat is None:
            started = await runtime.recurring.start_run(tx, name)
        else:
            started = await runtime.recurring.repeat_run(tx, name, repeat)
    if options.json:
        print_json(RecurringRunResponse.from_run(started).json_object())
        return
    print(f"run {started.id}")
    print_hint(options.complete_commands(f"See what becomes of it: tidings recurring runs {name}"))
