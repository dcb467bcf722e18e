"""`tidings digests`: list digests."""

from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table
from tidings.errors import ValidationFailed
from tidings.model.digest import DigestState
from tidings.model.ids import is_id

app = App(name="digests", help="List digests.")


@app.command(name="list")
async def list_digests(
    *,
    user: Annotated[str | None, Parameter(help="User id.")] = None,
    key: Annotated[str | None, Parameter(help="Value of the key expression.")] = None,
    state: Annotated[DigestState, Parameter(help="State.")] = DigestState.OPEN,
    limit: Annotated[int, Parameter(help="Maximum number of results.", validator=Number(gte=1))] = 50,
    before: Annotated[str | None, Parameter(help="Continue before this digest id.")] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """List digests, newest first."""
    from tidings.api.schemas.digests import DigestResponse
    from tidings.container import AppContainer

    if before is not None and not is_id(before):
        raise ValidationFailed("--before: must be the id of a digest")
    settings = options.require_existing_database()
    async with AppContainer.open(settings) as runtime, runtime.store.read_snapshot() as tx:
        page = await runtime.store.digests.list_page(tx, before=before, limit=limit, user_id=user, key=key, state=state)
    if options.json:
        print_json([DigestResponse.from_digest(row).json_object() for row in page])
        return
    rows = [
        (one.id, one.key.user_id, one.key.template_code, one.key.key, one.item_count, one.closes_at) for one in page
    ]
    columns = ("id", "user", "template", "key", "items", "closes")
    print_table(columns, rows, empty=f"No digest is {state.value}.")
    if len(page) == limit:
        print_hint(options.complete_commands(f"More: tidings digests list --before {page[-1].id}"))
