"""`tidings openapi`: print the OpenAPI document of the HTTP API."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from cyclopts import Parameter

from tidings.cli.output import print_json
from tidings.config.settings import Settings


async def openapi(
    *,
    json: Annotated[bool, Parameter(help="Accepted for uniformity; the output is always JSON.")] = True,  # noqa: ARG001
) -> None:
    """Print the OpenAPI document as JSON. Needs no running server and no database."""
    from tidings.api.app import create_app
    from tidings.container import AppContainer

    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder)).ensure_secrets()
        async with AppContainer.open(settings) as runtime:
            print_json(create_app(runtime).openapi())
