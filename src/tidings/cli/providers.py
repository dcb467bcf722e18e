"""`tidings providers`: show the state of each provider, over all processes."""

from tidings.cli.options import CliOptions
from tidings.cli.output import print_json, print_table


async def providers(*, options: CliOptions = CliOptions()) -> None:
    """Show the providers of each channel: state, circuit, weight, rate and errors, as the running workers report them.

    Workers report every five seconds. A provider over which nothing was sent yet may be missing.
    """
    from tidings.api.routes.providers import load_providers
    from tidings.container import AppContainer

    async with AppContainer.open(options.require_existing_database()) as runtime:
        found = await load_providers(runtime)
    if options.json:
        print_json(found.json_object())
        return
    columns = ("channel", "name", "state", "circuit", "weight", "per second", "limit", "errors", "processes", "as of")
    rows = [
        (
            one.channel,
            one.name,
            one.state.value,
            one.circuit,
            None if one.weight is None else f"{one.effective_weight:g} of {one.weight}",
            one.rate,
            one.rate_limit,
            f"{one.errors} of {one.requests}",
            one.processes if not one.processes_out else f"{one.processes}, out in {one.processes_out}",
            one.reported_at,
        )
        for one in found.providers
    ]
    print_table(columns, rows, empty="No running worker reports a provider.")
