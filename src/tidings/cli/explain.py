"""`tidings explain`: explain why a user received a notification, or why not."""

from typing import Annotated

from cyclopts import Parameter

from tidings.cli.options import CliOptions
from tidings.cli.output import print_json
from tidings.ports.clock import SystemClock


async def explain(
    *,
    user: Annotated[str, Parameter(help="User id.")],
    notification: Annotated[str, Parameter(help="Notification id.")],
    options: CliOptions = CliOptions(),
) -> int:
    """Explain why a user received a notification, or why not, from the recorded decisions.

    The exit code is 1 if the user or the notification does not exist.
    """
    # not the container: it loads channels and the API, which takes a second
    from tidings.cli.database import open_store
    from tidings.model.preference import parse_default
    from tidings.observability.explain import Verdict
    from tidings.observability.explain_query import explain_notification
    from tidings.packs.discovery import load_catalog

    settings = options.require_existing_database()
    catalog = load_catalog(preference_defaults=[parse_default(item) for item in settings.preference_defaults])
    async with open_store(settings, catalog.audiences) as store:
        explanation = await explain_notification(
            store, catalog, user_id=user, notification_id=notification, now=SystemClock().now()
        )
    exit_code = 1 if explanation.verdict == Verdict.UNKNOWN_USER else 0
    if options.json:
        from tidings.api.schemas.explain import explanation_response

        print_json(explanation_response(explanation).json_object())
        return exit_code
    print(f"{explanation.verdict.replace('_', ' ').capitalize()}\n")
    for sentence in explanation.sentences:
        print(f"  {sentence}")
    return exit_code
