"""`tidings explain`: why a user got a notification, or why not."""

from typing import Annotated

from cyclopts import Parameter

from tidings.cli.options import Options
from tidings.cli.output import print_json


async def explain(
    *,
    user: Annotated[str, Parameter(help="User id.")],
    notification: Annotated[str, Parameter(help="Notification id.")],
    options: Options = Options(),
) -> int:
    """Say why a user got a notification, or why not: every decision is kept with its reason.

    The exit code is 1 for a user or a notification that does not exist.
    """
    from tidings.api.explain import shown
    from tidings.insight.explain import Verdict
    from tidings.insight.facts import explain_to
    from tidings.runtime import Runtime

    async with Runtime.open(options.existing()) as runtime:
        answer = await explain_to(
            runtime.store,
            runtime.catalog,
            user_id=user,
            notification_id=notification,
            now=runtime.clock.now(),
        )
    code = 1 if answer.verdict == Verdict.UNKNOWN_USER else 0
    if options.json:
        print_json(shown(answer).json_object())
        return code
    print(f"{answer.verdict.replace('_', ' ').capitalize()}\n")
    for sentence in answer.sentences:
        print(f"  {sentence}")
    return code
