"""`tidings send`: notify users from the command line."""

from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from tidings.cli.options import Options
from tidings.cli.output import hint, print_json
from tidings.errors import Invalid
from tidings.model import audience
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest


async def send(
    template: Annotated[str, Parameter(help="Code of the template, e.g. MESSAGE.")],
    /,
    *,
    to: Annotated[list[str], Parameter(help="User id; repeat for several.")],
    var: Annotated[
        tuple[str, ...],
        Parameter(help="Variable as name=text, or name:=JSON; repeat for several.", consume_multiple=False),
    ] = (),
    priority: Literal["urgent", "high", "normal", "low"] | None = None,
    url: Annotated[str | None, Parameter(help="Path or URL that a click opens.")] = None,
    options: Options = Options(),
) -> None:
    """Accept a notification; a running `tidings serve` sends it."""
    from tidings.runtime import Runtime

    request = NotifyRequest(
        template_code=template,
        audience=audience.users(*to),
        variables=dict(variable(text) for text in var),
        priority=Priority(priority) if priority else None,
        action_url=url,
        source="command line",
    )
    async with Runtime.open(options.settings()) as runtime, runtime.store.begin() as tx:
        notification = await runtime.pipeline.accept(tx, request)
    if options.json:
        print_json({"id": notification.id, "status": notification.state.value})
    else:
        print(notification.id)
        hint("Accepted. A running `tidings serve` sends it; then: tidings explain --user USER --notification ID")


def variable(text: str) -> tuple[str, object]:
    """Return name and value of `name=text` or `name:=JSON`. Raises Invalid showing a right one."""
    name, equals, value = text.partition("=")
    if not equals or not name.rstrip(":"):
        raise Invalid(f"--var {text}: is not name=text or name:=JSON; write for example --var title=Hello")
    if not name.endswith(":"):
        return name, value
    try:
        return name[:-1], msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise Invalid(f"--var {text}: {error}; after := comes JSON, for example --var count:=3") from error
