"""`tidings openapi`: the description of the HTTP API."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from cyclopts import Parameter

from tidings.cli.output import print_json
from tidings.settings import Settings


async def openapi(
    *,
    json: Annotated[bool, Parameter(help="Accepted as everywhere; the document is JSON anyway.")] = True,  # noqa: ARG001
) -> None:
    """Print the OpenAPI document as JSON; needs no server and no database."""
    from tidings.api.app import create_app
    from tidings.runtime import Runtime

    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder)).ensure_secrets()
        async with Runtime.open(settings) as runtime:
            print_json(create_app(runtime).openapi())
