"""`tidings keys`: API keys for servers."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from tidings.cli.options import Options
from tidings.cli.output import hint, print_json, print_table
from tidings.errors import NotFound
from tidings.ports.store import ApiKey

app = App(name="keys", help="Create, list and revoke API keys.")

Scope = Literal["notify", "read", "admin"]


@app.command
async def create(
    *,
    scope: Annotated[list[Scope], Parameter(help="What the key may do; repeat for several. admin may do all.")],
    label: Annotated[str, Parameter(help="A name for people to recognise it by.")] = "",
    options: Options = Options(),
) -> None:
    """Create a key and print it: this is the only time it is shown."""
    from tidings.credentials import mint_api_key
    from tidings.model.ids import new_id
    from tidings.runtime import Runtime

    async with Runtime.open(options.settings()) as runtime:
        minted = mint_api_key()
        now = runtime.clock.now()
        key = ApiKey(new_id(now), minted.digest, minted.prefix, label, frozenset(scope), now)
        async with runtime.store.begin() as tx:
            await runtime.store.api_keys.add(tx, key)
    if options.json:
        print_json({"id": key.id, "key": minted.plain, "scopes": sorted(key.scopes), "label": label})
    else:
        hint("Keep it now, it is not shown again. Send it as: Authorization: Bearer KEY")
        print(minted.plain)


@app.command(name="list")
async def list_keys(*, options: Options = Options()) -> None:
    """List the keys, revoked ones included; the keys themselves are not kept."""
    from tidings.runtime import Runtime

    async with Runtime.open(options.existing()) as runtime, runtime.store.read() as tx:
        keys = await runtime.store.api_keys.all(tx)
    if options.json:
        print_json([_as_json(key) for key in keys])
    else:
        rows = [(k.id, f"{k.prefix}…", k.label or None, k.scopes, k.created_at, k.revoked_at) for k in keys]
        columns = ("id", "key", "label", "scopes", "created", "revoked")
        print_table(columns, rows, empty="No keys yet: tidings keys create --scope admin")


@app.command
async def revoke(key_id: str, /, *, options: Options = Options()) -> None:
    """Revoke a key by its id: it stops working within seconds."""
    from tidings.runtime import Runtime

    async with Runtime.open(options.existing()) as runtime, runtime.store.begin() as tx:
        if not await runtime.store.api_keys.revoke(tx, key_id, runtime.clock.now()):
            raise NotFound(f"there is no active key with the id {key_id}; see tidings keys list")
    if options.json:
        print_json({"id": key_id, "revoked": True})
    else:
        print(f"Revoked {key_id}")


def _as_json(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "label": key.label,
        "scopes": sorted(key.scopes),
        "createdAt": key.created_at,
        "revokedAt": key.revoked_at,
    }
