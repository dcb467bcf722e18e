"""`tidings users`: list, show and import users."""

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table
from tidings.errors import NotFound, ValidationFailed
from tidings.model.user import User

app = App(name="users", help="List, show and import users.")

#: users written in one transaction
PAGE_SIZE = 1000


@app.command(name="list")
async def list_users(
    *,
    limit: Annotated[int, Parameter(help="Maximum number of results.", validator=Number(gte=1))] = 50,
    after: Annotated[str | None, Parameter(help="Continue after this user id.")] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """List users in the order of their ids."""
    from tidings.cli.database import open_store

    async with open_store(options.require_existing_database()) as store, store.read_snapshot() as tx:
        users = await store.users.page(tx, after=after, limit=limit)
    if options.json:
        print_json([_to_json(user) for user in users])
        return
    rows = [(user.id, user.locale, user.timezone, user.city) for user in users]
    print_table(("id", "locale", "time zone", "city"), rows, empty="No users.")
    if len(users) == limit:
        print_hint(options.complete_commands(f"More: tidings users list --after {shlex.quote(users[-1].id)}"))


@app.command
async def show(user_id: str, /, *, options: CliOptions = CliOptions()) -> None:
    """Show one user with devices and preferences."""
    from tidings.cli.database import open_store

    async with open_store(options.require_existing_database()) as store, store.read_snapshot() as tx:
        user = await store.users.get(tx, user_id)
        if user is None:
            raise NotFound(f"there is no user {user_id}; see tidings users list")
        devices = await store.subscriptions.list_by_user(tx, user_id)
        preferences = await store.users.get_preferences(tx, user_id)
    if options.json:
        print_json(
            _to_json(user)
            | {
                "devices": [
                    {"id": d.id, "device": d.device, "state": d.state, "createdAt": d.created_at} for d in devices
                ],
                "preferences": [
                    {
                        "category": p.category or None,
                        "channel": p.channel or None,
                        "object": p.subject or None,
                        "enabled": p.enabled,
                        "condition": p.condition and p.condition.to_json(),
                    }
                    for p in preferences
                ],
            }
        )
        return
    attributes = msgspec.json.encode(user.attributes).decode()
    print_table(("", ""), list((_to_json(user) | {"attributes": attributes}).items()), empty="")
    print_table(("device", "state", "since"), [(d.device, d.state, d.created_at) for d in devices], empty="No devices.")
    rows = [(p.describe(), "on" if p.enabled else "off") for p in preferences]
    print_table(("for", "preference"), rows, empty="No preferences set: category defaults apply.")


@app.command(name="import")
async def import_users(
    file: Annotated[
        str,
        Parameter(
            help="NDJSON file, one user per line as in PUT /api/users; - reads standard input.",
            allow_leading_hyphen=True,
        ),
    ],
    /,
    *,
    options: CliOptions = CliOptions(),
) -> int:
    """Insert or replace users. Invalid lines are reported and skipped; the others are imported."""
    from tidings.container import AppContainer

    new = changed = 0
    line_errors: list[dict[str, object]] = []
    source = nullcontext(sys.stdin.buffer) if file == "-" else _open_file(Path(file))
    async with AppContainer.open(options.load_settings()) as runtime:
        with source as lines:
            for page in _read_pages(lines, line_errors):
                async with runtime.store.transaction() as tx:
                    is_new = await runtime.store.users.upsert(tx, page, runtime.clock.now())
                new += sum(is_new)
                changed += len(is_new) - sum(is_new)
    if options.json:
        print_json({"new": new, "changed": changed, "refused": line_errors})
    else:
        for error in line_errors:
            print_hint(f"line {error['line']}: {error['message']}")
        print(f"{new} new, {changed} changed, {len(line_errors)} refused")
    return 1 if line_errors else 0


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ValidationFailed(
            f"cannot read {path}: {error.strerror}; give an NDJSON file, or - for standard input"
        ) from error


def _read_pages(lines: Iterable[bytes], errors: list[dict[str, object]]) -> Iterator[list[User]]:
    """Yield users in pages and append to `errors`.

    Of lines with the same id the last one in a page counts, because one statement cannot write a row twice.
    """
    page: dict[str, User] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            user = _parse_line(line)
        except ValidationFailed as error:
            errors.append({"line": number, "message": error.message})
            continue
        page[user.id] = user
        if len(page) >= PAGE_SIZE:
            yield list(page.values())
            page.clear()
    if page:
        yield list(page.values())


def _parse_line(line: bytes) -> User:
    from tidings.api.routes.users import to_user
    from tidings.api.routes.users_bulk import BulkUserBody
    from tidings.schemas import json_body

    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValidationFailed("must be UTF-8") from error
    body = json_body.parse_body(line, BulkUserBody)
    return to_user(body.id, body)


def _to_json(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "email": user.email,
        "phone": user.phone,
        "locale": user.locale,
        "timezone": user.timezone,
        "city": user.city,
        "country": user.country,
        "latitude": user.latitude,
        "longitude": user.longitude,
        "attributes": user.attributes,
        "createdAt": user.created_at,
        "updatedAt": user.updated_at,
    }
