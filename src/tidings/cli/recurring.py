"""`tidings recurring`: list recurring notifications and their runs, and run one now."""

from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table
from tidings.errors import ValidationFailed
from tidings.model.ids import is_id

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
    responses = [RecurringResponse.from_recurring(one) for one in page]
    if options.json:
        print_json([one.json_object() for one in responses])
        return
    rows = [
        (one.name, one.template_code, ", ".join(one.at), one.timezone, one.next_run_at or "paused") for one in responses
    ]
    print_table(("name", "template", "at", "zone", "next"), rows, empty="There are no recurring notifications.")
    if len(page) == limit:
        print_hint(options.complete_commands(f"More: tidings recurring list --after {page[-1].name}"))


@app.command
async def runs(
    name: Annotated[str, Parameter(help="Name of the recurring notification.")],
    *,
    limit: Annotated[int, Parameter(help="Maximum number of results.", validator=Number(gte=1))] = 20,
    before: Annotated[str | None, Parameter(help="Continue before this run id.")] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """List the runs of a recurring notification, newest first, with what became of them."""
    from tidings.api.schemas.recurring import RecurringRunResponse
    from tidings.container import AppContainer

    if before is not None and not is_id(before):
        raise ValidationFailed("--before: must be the id of a run")
    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.read_snapshot() as tx:
        await runtime.recurring.get(tx, name)
        page = await runtime.store.recurring.list_runs(tx, name, before=before, limit=limit)
    if options.json:
        print_json([RecurringRunResponse.from_run(one).json_object() for one in page])
        return
    rows = [(one.id, one.scheduled_at, one.state.value, one.notification_id or one.reason or "-") for one in page]
    print_table(("id", "scheduled", "state", "notification or reason"), rows, empty=f"{name} has no runs yet.")
    if len(page) == limit:
        print_hint(options.complete_commands(f"More: tidings recurring runs {name} --before {page[-1].id}"))


@app.command
async def run(
    name: Annotated[str, Parameter(help="Name of the recurring notification.")], *, options: CliOptions = CliOptions()
) -> None:
    """Run a recurring notification now, for its whole audience. A worker makes the run within a second."""
    from tidings.api.schemas.recurring import RecurringRunResponse
    from tidings.container import AppContainer

    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.transaction() as tx:
        started = await runtime.recurring.start_run(tx, name)
    if options.json:
        print_json(RecurringRunResponse.from_run(started).json_object())
        return
    print(f"run {started.id}")
    print_hint(options.complete_commands(f"See what becomes of it: tidings recurring runs {name}"))
