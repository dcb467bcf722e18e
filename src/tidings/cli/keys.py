"""`tidings keys`: create, list and revoke API keys."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table
from tidings.errors import NotFound
from tidings.ports.clock import SystemClock
from tidings.ports.store import ApiKey

app = App(name="keys", help="Create, list and revoke API keys.")

Scope = Literal["notify", "read", "admin"]


@app.command
async def create(
    *,
    scope: Annotated[list[Scope], Parameter(help="What the key may do; repeatable. admin includes all scopes.")],
    label: Annotated[str, Parameter(help="A name by which people recognise the key.")] = "",
    options: CliOptions = CliOptions(),
) -> None:
    """Create a key and print it. It is shown only once."""
    from tidings.cli.database import open_store
    from tidings.credentials import mint_api_key
    from tidings.model.ids import new_id

    async with open_store(options.load_settings()) as store:
        minted = mint_api_key()
        now = SystemClock().now()
        key = ApiKey(new_id(now), minted.digest, minted.prefix, label, frozenset(scope), now)
        async with store.transaction() as tx:
            await store.api_keys.add(tx, key)
    if options.json:
        print_json({"id": key.id, "key": minted.plain, "scopes": sorted(key.scopes), "label": label})
    else:
        print_hint("Store the key now; it is not shown again. Send it as: Authorization: Bearer KEY")
        print(minted.plain)


@app.command(name="list")
async def list_keys(*, options: CliOptions = CliOptions()) -> None:
    """List the keys, including revoked ones. The keys themselves are not stored."""
    from tidings.cli.database import open_store

    async with open_store(options.require_existing_database()) as store, store.read_snapshot() as tx:
        keys = await store.api_keys.list_all(tx)
    if options.json:
        print_json([_to_json(key) for key in keys])
    else:
        rows = [(k.id, f"{k.prefix}…", k.label or None, k.scopes, k.created_at, k.revoked_at) for k in keys]
        columns = ("id", "key", "label", "scopes", "created", "revoked")
        empty = options.complete_commands("No keys yet: tidings keys create --scope admin")
        print_table(columns, rows, empty=empty)


@app.command
async def revoke(key_id: str, /, *, options: CliOptions = CliOptions()) -> None:
    """Revoke a key by its id. It stops working within 5 seconds."""
    from tidings.cli.database import open_store

    async with open_store(options.require_existing_database()) as store, store.transaction() as tx:
        if not await store.api_keys.revoke(tx, key_id, SystemClock().now()):
            raise NotFound(f"there is no active key with the id {key_id}; see tidings keys list")
    if options.json:
        print_json({"id": key_id, "revoked": True})
    else:
        print(f"Revoked {key_id}")


def _to_json(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "label": key.label,
        "scopes": sorted(key.scopes),
        "createdAt": key.created_at,
        "revokedAt": key.revoked_at,
    }
