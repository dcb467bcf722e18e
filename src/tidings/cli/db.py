"""`tidings db`: the database's schema."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclopts import App
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from tidings.cli.options import Options
from tidings.cli.output import print_json
from tidings.secret_files import private_file
from tidings.settings import Settings
from tidings.stores import migrate

app = App(name="db", help="Create, upgrade and look at the database.")


@app.command
def upgrade(*, options: Options = Options()) -> None:
    """Create the database or bring it up to date; the server does the same at its start."""
    path = _file(options.settings())
    private_file(path)
    with connected(path) as connection:
        before = migrate.status(connection)
        migrate.upgrade(connection)
        after = migrate.status(connection)
    if options.json:
        print_json({"database": str(path), "from": before.current, "to": after.current})
    elif before.up_to_date:
        print(f"{path} is up to date (schema {after.current})")
    else:
        print(f"{path}: schema {before.current or 'none'} → {after.current}")


@app.command
def status(*, options: Options = Options()) -> int:
    """Show which schema the database has; exit code 1 if it needs an upgrade."""
    path = _file(options.settings())
    if path.exists():
        with connected(path) as connection:
            found = migrate.status(connection)
        current, up_to_date = found.current, found.up_to_date
    else:
        current, up_to_date = None, False
    if options.json:
        print_json({"database": str(path), "current": current, "upToDate": up_to_date})
    elif up_to_date:
        print(f"{path} is up to date (schema {current})")
    else:
        print(f"{path} has {f'schema {current}' if current else 'no schema yet'}; run tidings db upgrade")
    return 0 if up_to_date else 1


def _file(settings: Settings) -> Path:
    path = settings.sqlite_path
    assert path is not None, "settings allow SQLite files only"
    return path


@contextmanager
def connected(path: Path) -> Iterator[Connection]:
    """Open a SQLite file for the length of the block."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.connect() as connection:
        yield connection
