"""`tidings send`: notify users from the command line."""

import shlex
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json
from tidings.errors import FieldError, ValidationFailed
from tidings.model import audience
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.subject import SubjectRequest


async def send(
    template: Annotated[str, Parameter(help="Code of the template, e.g. MESSAGE.")],
    /,
    *,
    to: Annotated[list[str], Parameter(help="User id; repeatable.")],
    var: Annotated[
        tuple[str, ...],
        Parameter(help="Variable as name=text or name:=JSON; repeatable.", consume_multiple=False),
    ] = (),
    priority: Literal["urgent", "high", "normal", "low"] | None = None,
    url: Annotated[str | None, Parameter(help="Path or URL that a click opens.")] = None,
    subject: Annotated[str | None, Parameter(help="What it is about; it supersedes older ones on it.")] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """Accept a notification; a running `tidings serve` or `tidings worker` sends it."""
    from tidings.container import AppContainer

    request = NotifyRequest(
        template_code=template,
        audience=audience.users(*to),
        variables=dict(parse_variable(text) for text in var),
        priority=Priority(priority) if priority else None,
        action_url=url,
        source="command line",
        subject=SubjectRequest(subject) if subject else None,
    )
    settings = options.load_settings()
    async with AppContainer.open(settings) as runtime, runtime.store.transaction() as tx:
        try:
            notification = await runtime.pipeline.accept(tx, request)
        except ValidationFailed as error:
            raise _with_flag_names(error) from error
    if options.json:
        print_json({"id": notification.id, "status": notification.state.value})
    else:
        print(notification.id)
        # several processes share a PostgreSQL database, and workers send; on SQLite it is the one server
        sender = "tidings serve" if settings.is_exclusive else "tidings worker"
        explain = f"tidings explain --user {shlex.quote(to[0])} --notification {notification.id}"
        print_hint(options.complete_commands(f"Accepted. A running `{sender}` sends it; then: {explain}"))


#: field name in the API → option of this command
_FLAGS = {
    "templateCode": "TEMPLATE",
    "userId": "--to",
    "userIds": "--to",
    "options.actionUrl": "--url",
    "options.subject": "--subject",
}


def _with_flag_names(error: ValidationFailed) -> ValidationFailed:
    """Return the error with the command's option names in place of the API's field names."""
    if not error.field_errors:
        return error
    return ValidationFailed.from_errors(
        [FieldError(_flag_name(field_error.field), field_error.message) for field_error in error.field_errors]
    )


def _flag_name(field: str) -> str:
    if field.startswith("variables."):
        return f"--var {field.removeprefix('variables.')}=…"
    name = field.partition("[")[0]
    return _FLAGS.get(name) or (f"--{name.removeprefix('options.')}" if name == "options.priority" else field)


def parse_variable(text: str) -> tuple[str, object]:
    """Return name and value of `name=text` or `name:=JSON`. Raises ValidationFailed with an example."""
    name, equals, value = text.partition("=")
    if not equals or not name.rstrip(":"):
        raise ValidationFailed(f"--var {text}: must be name=text or name:=JSON, for example --var title=Hello")
    if not name.endswith(":"):
        return name, value
    try:
        return name[:-1], msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise ValidationFailed(f"--var {text}: {error}; JSON must follow :=, for example --var count:=3") from error
