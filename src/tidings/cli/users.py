"""`tidings users`: list, show and import users."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import Options
from tidings.cli.output import hint, print_json, print_table
from tidings.errors import Invalid, NotFound
from tidings.model.user import User

app = App(name="users", help="List, show and import users.")

#: users written in one transaction
PAGE = 1000


@app.command(name="list")
async def list_users(
    *,
    limit: Annotated[int, Parameter(help="At most this many.", validator=Number(gte=1))] = 50,
    after: Annotated[str | None, Parameter(help="Continue after this user id.")] = None,
    options: Options = Options(),
) -> None:
    """List users in the order of their ids."""
    from tidings.runtime import Runtime

    async with Runtime.open(options.existing()) as runtime, runtime.store.read() as tx:
        users = await runtime.store.users.page(tx, after=after, limit=limit)
    if options.json:
        print_json([_as_json(user) for user in users])
        return
    rows = [(user.id, user.locale, user.timezone, user.city) for user in users]
    print_table(("id", "locale", "time zone", "city"), rows, empty="No users.")
    if len(users) == limit:
        hint(f"More: tidings users list --after {users[-1].id}")


@app.command
async def show(user_id: str, /, *, options: Options = Options()) -> None:
    """Show one user with devices and preferences."""
    from tidings.runtime import Runtime

    async with Runtime.open(options.existing()) as runtime, runtime.store.read() as tx:
        user = await runtime.store.users.get(tx, user_id)
        if user is None:
            raise NotFound(f"there is no user {user_id}; see tidings users list")
        devices = await runtime.store.subscriptions.of_user(tx, user_id)
        choices = await runtime.store.users.preferences(tx, user_id)
    if options.json:
        print_json(
            _as_json(user)
            | {
                "devices": [
                    {"id": d.id, "device": d.device, "state": d.state, "createdAt": d.created_at} for d in devices
                ],
                "preferences": [{"category": c.category, "channel": c.channel, "enabled": c.enabled} for c in choices],
            }
        )
        return
    attributes = msgspec.json.encode(user.attributes).decode()
    print_table(("", ""), list((_as_json(user) | {"attributes": attributes}).items()), empty="")
    print_table(("device", "state", "since"), [(d.device, d.state, d.created_at) for d in devices], empty="No devices.")
    rows = [(c.category, c.channel, "on" if c.enabled else "off") for c in choices]
    print_table(("category", "channel", "choice"), rows, empty="No preferences set: the categories' defaults hold.")


@app.command(name="import")
async def import_users(
    file: Annotated[
        str,
        Parameter(
            help="NDJSON, one user per line as in PUT /api/users; - reads standard input.", allow_leading_hyphen=True
        ),
    ],
    /,
    *,
    options: Options = Options(),
) -> int:
    """Insert or replace users; lines that are wrong are reported and left out, the others are kept."""
    from tidings.runtime import Runtime

    new = changed = 0
    faults: list[dict[str, object]] = []
    source = nullcontext(sys.stdin.buffer) if file == "-" else _open(Path(file))
    async with Runtime.open(options.settings()) as runtime:
        with source as lines:
            for page in _pages(lines, faults):
                async with runtime.store.begin() as tx:
                    fresh = await runtime.store.users.upsert(tx, page, runtime.clock.now())
                new += sum(fresh)
                changed += len(fresh) - sum(fresh)
    if options.json:
        print_json({"new": new, "changed": changed, "refused": faults})
    else:
        for fault in faults:
            hint(f"line {fault['line']}: {fault['message']}")
        print(f"{new} new, {changed} changed, {len(faults)} refused")
    return 1 if faults else 0


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}; name an NDJSON file, or - for standard input") from error


def _pages(lines: Iterable[bytes], faults: list[dict[str, object]]) -> Iterator[list[User]]:
    """Yield users in pages; an id that comes twice in a page would make one statement write a row twice."""
    page: dict[str, User] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            user = _read(line)
        except Invalid as error:
            faults.append({"line": number, "message": error.message})
            continue
        page[user.id] = user
        if len(page) >= PAGE:
            yield list(page.values())
            page.clear()
    if page:
        yield list(page.values())


def _read(line: bytes) -> User:
    from tidings.api.users import user_of
    from tidings.api.users_bulk import BulkUserBody
    from tidings.edge import bodies

    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid("is not UTF-8") from error
    body = bodies.read(line, BulkUserBody)
    return user_of(body.id, body)


def _as_json(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "email": user.email,
        "phone": user.phone,
        "locale": user.locale,
        "timezone": user.timezone,
        "city": user.city,
        "attributes": user.attributes,
        "createdAt": user.created_at,
        "updatedAt": user.updated_at,
    }
