"""The database for commands that read it: a store without the rest of the container, which takes a second to load."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from tidings.config.settings import Role, Settings
from tidings.ports.pack import AudienceKind
from tidings.stores.factory import create_store, ensure_schema
from tidings.stores.store import SqlStore


@asynccontextmanager
async def open_store(
    settings: Settings, audience_kinds: Mapping[str, AudienceKind] | None = None
) -> AsyncIterator[SqlStore]:
    """Open the store of an existing installation, with the engine's schema up to date.

    audience_kinds: of the packs, for a command that evaluates audiences. Raises ConfigError and BackendError.
    """
    settings = settings.ensure_secrets()
    store = create_store(settings, Role.CLIENT, audience_kinds or {})
    try:
        await ensure_schema(store, settings)
        yield store
    finally:
        await store.close()
