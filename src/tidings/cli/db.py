"""`tidings db`: create, upgrade, inspect and downgrade the database schema."""

import asyncio
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from cyclopts import App
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json
from tidings.config.secret_files import create_private_file, secret_path
from tidings.config.settings import Settings
from tidings.errors import ConfigError, NotFound, TidingsError, ValidationFailed
from tidings.stores.engine import cancel_safe_connection, postgres, sqlite
from tidings.stores.schema import version
from tidings.stores.schema.ensure_current import ensure_current

app = App(name="db", help="Create, upgrade and inspect the database.")

_T = TypeVar("_T")
#: who has migrations besides the engine
_KINDS = ("pack", "channel")


@app.command
def upgrade(*, options: CliOptions = CliOptions()) -> None:
    """Create the database or upgrade its schema and those of the packs, as the server does at start."""
    settings = options.load_settings()
    if (path := settings.sqlite_path) is not None:
        create_private_file(path)
    packs = _load_pack_migrations()
    before, after = _run_on_database(
        settings,
        lambda connection: _migrate_and_compare(connection, packs, lambda target: ensure_current(target, packs)),
        writing=True,
    )
    _report_change(settings, options, before, after)


@app.command
def status(*, options: CliOptions = CliOptions()) -> int:
    """Show the schema versions of the database; exit code 1 if it needs an upgrade."""
    settings = options.load_settings()
    packs = _load_pack_migrations()
    path, name = settings.sqlite_path, _database_name(settings)
    if path is None or path.exists():
        engine, *of_packs = _run_on_database(
            settings, lambda connection: version.read_statuses(connection, packs), writing=False
        )
    else:
        engine = version.SchemaStatus(None, version.HEAD_REVISION)
        of_packs = [
            version.SchemaStatus(None, migrations.head_revision, migrations.pack, migrations.kind)
            for migrations in packs
        ]
    up_to_date = all(status.is_current for status in (engine, *of_packs))
    if options.json:
        print_json(
            {
                "database": name,
                "current": engine.current_revision,
                "upToDate": up_to_date,
                **{
                    f"{kind}s": {
                        status.pack: {"current": status.current_revision, "upToDate": status.is_current}
                        for status in of_packs
                        if status.kind == kind
                    }
                    for kind in _KINDS
                },
            }
        )
    else:
        for status in (engine, *of_packs):
            label = f"{status.owner} in {name}" if status.pack else name
            current = status.current_revision
            if status.is_current:
                print(f"{label} is up to date (schema {current})")
            else:
                fix = options.complete_commands("run tidings db upgrade")
                print(f"{label} has {f'schema {current}' if current else 'no schema yet'}; {fix}")
    return 0 if up_to_date else 1


@app.command
def downgrade(
    to: str,
    *,
    pack: str | None = None,
    channel: str | None = None,
    yes: bool = False,
    options: CliOptions = CliOptions(),
) -> None:
    """Revert the schema to an older version, for an older program. Data that only the newer one stores is deleted.

    Parameters
    ----------
    to
        The schema version to revert to, as `tidings db status` shows it; `base` deletes everything.
    pack
        Revert the schema of this pack instead of that of Tidings.
    channel
        Revert the schema of this channel instead of that of Tidings.
    yes
        Confirm the deletion. Stop every server first.
    """
    from tidings.stores.schema import migrate

    settings = options.load_settings()
    name = _database_name(settings)
    migrations = version.ENGINE_MIGRATIONS
    if pack is not None and channel is not None:
        raise ValidationFailed.for_field("channel", "cannot be given together with --pack")
    if pack is not None:
        migrations = _find_migrations("pack", pack)
    elif channel is not None:
        migrations = _find_migrations("channel", channel)
    if (path := settings.sqlite_path) is not None and not path.exists():
        raise NotFound(f"there is no database at {path}; see --data-dir")
    if not yes:
        owner = f" of {migrations.owner}" if migrations.pack else ""
        raise ValidationFailed(
            f"this deletes all data in {name} that schema {to}{owner} does not have; stop every server and add --yes"
        )
    before, after = _run_on_database(
        settings,
        lambda connection: _migrate_and_compare(
            connection,
            () if migrations.pack is None else (migrations,),
            lambda target: migrate.downgrade(target, to, migrations=migrations),
        ),
        writing=True,
    )
    _report_change(settings, options, before, after)


@app.command
def backup(path: Path, /, *, options: CliOptions = CliOptions()) -> None:
    """Copy a SQLite database to a new file, also while a server uses it. For PostgreSQL use pg_dump.

    Parameters
    ----------
    path
        The file to create. It must not exist.
    """
    settings = options.require_existing_database()
    source = settings.sqlite_path
    if source is None:
        url = _url_without_password(settings.database)
        raise ValidationFailed(
            "the database is PostgreSQL; back it up with: "
            f"pg_dump --format=custom --file={shlex.quote(str(path))} {shlex.quote(url)}"
        )
    if path.exists():
        raise ValidationFailed(f"{path} exists; name a new file")
    if not path.parent.is_dir():
        raise ValidationFailed(f"there is no folder {path.parent}; create it or name another file")
    try:
        sqlite.copy_database(source, path)
    except OSError as error:
        raise TidingsError(f"{path} cannot be written: {error.strerror or error}") from error
    size = path.stat().st_size
    if options.json:
        print_json({"database": str(source), "backup": str(path.absolute()), "bytes": size})
    else:
        print(f"{path.absolute()}: {size} bytes")
        if settings.list_generated_secrets():
            key = secret_path(settings.data_dir, "secret_key").absolute()
            print_hint(f"Keep {key} with it: without this key the encrypted fields cannot be read.")


def _load_pack_migrations() -> list[version.MigrationSet]:
    # loads the packs and channels, which `tidings db` needs and most commands do not
    from tidings.channels.plugin import load_channel_plugins
    from tidings.packs.discovery import collect_migrations, load_packs

    return collect_migrations(load_packs(), load_channel_plugins())


def _find_migrations(kind: str, name: str) -> version.MigrationSet:
    found = {migrations.pack: migrations for migrations in _load_pack_migrations() if migrations.kind == kind}
    if name not in found:
        raise ValidationFailed.for_field(
            kind, f"no {kind} {name!r} with migrations; there are {', '.join(map(str, found)) or 'none'}"
        )
    return found[name]


def _migrate_and_compare(
    connection: Connection, packs: Sequence[version.MigrationSet], migration: Callable[[Connection], None]
) -> tuple[list[version.SchemaStatus], list[version.SchemaStatus]]:
    """Run a migration and return the schema statuses before and after it: of the engine, then of the packs."""
    before = version.read_statuses(connection, packs)
    connection.rollback()
    migration(connection)
    return before, version.read_statuses(connection, packs)


def _report_change(
    settings: Settings,
    options: CliOptions,
    before: Sequence[version.SchemaStatus],
    after: Sequence[version.SchemaStatus],
) -> None:
    name = _database_name(settings)
    changes = [(new, old.current_revision, new.current_revision) for old, new in zip(before, after, strict=True)]
    if options.json:
        (_, old, new), *of_packs = changes
        owned = {
            f"{kind}s": {
                owner.pack: {"from": from_revision, "to": to_revision}
                for owner, from_revision, to_revision in of_packs
                if owner.kind == kind
            }
            for kind in _KINDS
        }
        print_json({"database": name, "from": old, "to": new, **owned})
        return
    for owner, old, new in changes:
        label = f"{owner.owner} in {name}" if owner.pack else name
        if old == new:
            print(f"{label} is up to date (schema {new})" if new else f"{label} has no schema")
        else:
            print(f"{label}: schema {old or 'none'} → {new or 'none'}")


def _run_on_database(settings: Settings, work: Callable[[Connection], _T], *, writing: bool) -> _T:
    """Run `work` with a connection to the configured database. Raises BackendError when it does not respond."""
    path = settings.sqlite_path
    if path is None:
        if settings.database.startswith("sqlite:"):
            raise ConfigError("TIDINGS_DATABASE", "must name a file: sqlite:///path/to/tidings.db")
        return asyncio.run(_run_on_postgres(settings.database, work))
    if not writing:
        with open_sqlite(path) as connection:
            return work(connection)
    with _open_connection(sqlite.create_sync_engine(path)) as connection:
        return work(connection)


async def _run_on_postgres(url: str, work: Callable[[Connection], _T]) -> _T:
    writer, _ = postgres.create_engines(url, pool_size=1)
    try:
        async with cancel_safe_connection.raw_connection(writer) as connection:
            return await connection.run_sync(work)
    finally:
        await writer.dispose()


@contextmanager
def open_sqlite(path: Path) -> Iterator[Connection]:
    """Open a connection to a SQLite file for reading."""
    with _open_connection(create_engine(f"sqlite:///{path}", poolclass=NullPool, hide_parameters=True)) as connection:
        yield connection


@contextmanager
def _open_connection(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _database_name(settings: Settings) -> str:
    """Return a name of the database for messages: its file, or its URL without user, password and options."""
    if settings.sqlite_path is not None:
        return str(settings.sqlite_path)
    parts = urlsplit(settings.database)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _url_without_password(database: str) -> str:
    """Return a PostgreSQL URL for another program: without the password and the parameters of Tidings."""
    parts = urlsplit(database)
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"
