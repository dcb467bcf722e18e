"""What the demo needs beside the server: a mock push service as a child process, and an admin key that is shown."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tidings.credentials import mint_api_key
from tidings.errors import ConfigError, TidingsError
from tidings.secret_files import secret_from_file
from tidings.settings import Settings
from tidings.testing.mock_push.server import MockPushOptions
from tidings.testing.mock_push.spawn import spawn

_PORT_FILE = "demo-push-port"


@asynccontextmanager
async def services(settings: Settings) -> AsyncIterator[Settings]:
    """Run the mock push service for the length of the block; give settings that allow it and know the admin key.

    It keeps its port over restarts, because the devices' endpoints name it. Raises ConfigError when that port is taken.
    """
    port_file = settings.data_dir / _PORT_FILE
    port = int(port_file.read_text()) if port_file.exists() else 0
    started = False
    try:
        async with spawn(MockPushOptions(port=port)) as push:
            started = True
            address = urlsplit(push.origin)
            port_file.write_text(str(address.port))
            yield settings.model_copy(
                update={
                    "push_extra_hosts": (*settings.push_extra_hosts, address.netloc),
                    "bootstrap_key": settings.bootstrap_key or _key(settings),
                }
            )
    except TidingsError as error:
        if started:
            raise
        raise ConfigError(
            "TIDINGS_DATA_DIR",
            f"the demo's push service could not start on port {port}, which its devices were given; free that port, "
            "or start afresh with another --data-dir",
        ) from error


def _key(settings: Settings) -> str:
    """Return the demo's admin key: kept in a file, because a key that is only stored hashed cannot be shown again."""
    return secret_from_file(settings.data_dir, "demo_key", lambda: mint_api_key().plain)
