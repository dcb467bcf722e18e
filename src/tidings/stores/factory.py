"""Creates the store that the settings name, without opening a connection."""

from collections.abc import Mapping, Sequence

from tidings.config.settings import Role, Settings
from tidings.errors import ConfigError
from tidings.ports.pack import AudienceKind
from tidings.stores.engine import sqlite
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.schema.version import MigrationSet, SchemaStatus
from tidings.stores.store import SqlStore

#: size of the PostgreSQL connection pool per process, if the setting is 0
_DEFAULT_POOL_SIZES = {Role.SERVE: 50, Role.API: 50, Role.WORKER: 20, Role.CLIENT: 5}


def create_store(
    settings: Settings,
    role: Role,
    audience_kinds: Mapping[str, AudienceKind],
    pack_migrations: Sequence[MigrationSet] = (),
    *,
    has_status_events: bool = False,
) -> SqlStore:
    """Return the store. Raises ConfigError naming the setting and the fix.

    has_status_events: store events of notifications and deliveries for the host product.
    """
    path = settings.sqlite_path
    if path is not None:
        engines = sqlite.create_engines(path)
    elif settings.database.startswith("sqlite:"):
        raise ConfigError("TIDINGS_DATABASE", "must name a file: sqlite:///path/to/tidings.db")
    else:
        # imported here, because a command on SQLite does not need the driver
        from tidings.stores.engine import postgres

        engines = postgres.create_engines(
            settings.database, pool_size=settings.database_pool or _DEFAULT_POOL_SIZES[role]
        )
    return SqlStore(
        *engines,
        FieldCipher(settings.secret_key),
        audience_kinds,
        pack_migrations,
        has_status_events=has_status_events,
    )


async def ensure_schema(store: SqlStore, settings: Settings) -> None:
    """Migrate the schema. With `migrate` off, raise ConfigError if the schema is not current."""
    if settings.migrate:
        await store.upgrade()
    elif mismatch := describe_schema_mismatch(await store.schema_statuses()):
        raise ConfigError("TIDINGS_MIGRATE", f"is off, and {mismatch}; run: tidings db upgrade")


def describe_schema_mismatch(statuses: Sequence[SchemaStatus]) -> str | None:
    """Return how the schemas of the engine and of packs differ from this program's, None if they do not."""
    for status in statuses:
        if not status.is_current:
            actual = f"schema {status.current_revision}" if status.current_revision else "no schema"
            owner = f" of {status.owner}" if status.pack else ""
            return f"the database has {actual}{owner}, not {status.head_revision}"
    return None
