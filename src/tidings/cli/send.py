"""`tidings send`: notify users from the command line."""

from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from tidings.cli.options import Options
from tidings.cli.output import hint, print_json
from tidings.errors import Fault, Invalid
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
        try:
            notification = await runtime.pipeline.accept(tx, request)
        except Invalid as error:
            raise _in_flags(error) from error
    if options.json:
        print_json({"id": notification.id, "status": notification.state.value})
    else:
        print(notification.id)
        hint("Accepted. A running `tidings serve` sends it; then: tidings explain --user USER --notification ID")


#: names in the API → what a person typed here
_FLAGS = {"templateCode": "TEMPLATE", "userId": "--to", "userIds": "--to", "options.actionUrl": "--url"}


def _in_flags(error: Invalid) -> Invalid:
    """Return the error in the words of this command instead of those of the API's fields."""
    return Invalid.of([Fault(_flag(fault.field), fault.message) for fault in error.faults]) if error.faults else error


def _flag(field: str) -> str:
    if field.startswith("variables."):
        return f"--var {field.removeprefix('variables.')}=…"
    name = field.partition("[")[0]
    return _FLAGS.get(name) or (f"--{name.removeprefix('options.')}" if name == "options.priority" else field)


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
