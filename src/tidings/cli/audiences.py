"""`tidings audiences`: list, show and estimate saved audiences."""

from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table
from tidings.errors import ValidationFailed

app = App(name="audiences", help="List, show and estimate saved audiences.")


@app.command(name="list")
async def list_audiences(
    *,
    limit: Annotated[int, Parameter(help="Maximum number of results.", validator=Number(gte=1))] = 50,
    after: Annotated[str | None, Parameter(help="Continue after this name.")] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """List saved audiences in the order of their names."""
    from tidings.api.routes.audiences import to_saved_response
    from tidings.container import AppContainer

    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.read_snapshot() as tx:
        page = await runtime.store.saved_audiences.page(tx, after=after, limit=limit)
    if options.json:
        print_json([to_saved_response(one).json_object() for one in page])
        return
    rows = [(one.name, one.description, one.updated_at) for one in page]
    print_table(("name", "description", "updated"), rows, empty="There are no saved audiences.")
    if len(page) == limit:
        print_hint(options.complete_commands(f"More: tidings audiences list --after {page[-1].name}"))


@app.command
async def show(
    name: Annotated[str, Parameter(help="Name of the saved audience.")], *, options: CliOptions = CliOptions()
) -> None:
    """Show the definition of a saved audience, as JSON."""
    from tidings.api.routes.audiences import to_saved_response
    from tidings.container import AppContainer

    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.read_snapshot() as tx:
        found = to_saved_response(await runtime.audiences.get(tx, name))
    print_json(found.json_object() if options.json else found.definition)


@app.command
async def estimate(
    name: Annotated[str | None, Parameter(help="Name of the saved audience.")] = None,
    *,
    audience: Annotated[str | None, Parameter(help="Or an audience, as JSON.")] = None,
    category: Annotated[str, Parameter(help="Code of the category whose preferences count.")] = "MESSAGE",
    channel: Annotated[tuple[str, ...], Parameter(help="Only this channel; may be repeated.")] = (),
    options: CliOptions = CliOptions(),
) -> None:
    """Estimate whom a notification to an audience would reach now, and who is excluded why."""
    from tidings.api.routes.audiences import to_estimate_response
    from tidings.container import AppContainer
    from tidings.model.audience import from_json, saved

    if (name is None) == (audience is None):
        raise ValidationFailed("give the name of a saved audience, or --audience with JSON")
    described = saved(name) if name is not None else from_json(_parse_json(audience or ""))
    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.read_snapshot() as tx:
        if name is not None:
            await runtime.audiences.get(tx, name)
        result = await runtime.audiences.estimate(tx, described, category=category, channels=channel)
    response = to_estimate_response(result)
    if options.json:
        print_json(response.json_object())
        return
    print(f"{response.size} users; of {response.examined} examined, {response.reachable} would be reached")
    rows = [
        (channel, one.reachable, ", ".join(f"{number} {reason}" for reason, number in one.excluded.items()) or "-")
        for channel, one in response.channels.items()
    ]
    print_table(("channel", "reachable", "excluded"), rows, empty="No channel is set up.")


def _parse_json(text: str) -> object:
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValidationFailed(f"--audience: is not JSON: {error}") from error
