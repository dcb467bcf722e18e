"""`tidings dead-letters`: list, replay and discard dead letters."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import CliOptions
from tidings.cli.output import print_hint, print_json, print_table
from tidings.errors import ValidationFailed
from tidings.model.ids import is_id
from tidings.ports.operations import DeadLetterFilter

if TYPE_CHECKING:
    from tidings.flow.recover.dead_letter_replay import ReplayPreview

app = App(name="dead-letters", help="List, replay and discard dead letters.")

_MATCH_ALL = DeadLetterFilter()


@Parameter(name="*")
@dataclass(frozen=True)
class DeadLetterOptions:
    """Filters; a dead letter must match all that are given."""

    error: Annotated[
        str | None, Parameter(help="Error text as displayed, or the part of it before one of its colons.")
    ] = None
    notification: Annotated[str | None, Parameter(help="Notification id.")] = None
    template: Annotated[str | None, Parameter(help="Template code of the notification.")] = None
    channel: Annotated[str | None, Parameter(help="Channel.")] = None
    user: Annotated[str | None, Parameter(help="User id.")] = None
    since: Annotated[
        str | None, Parameter(help="Failed at this time or later, for example 2026-11-22T19:30:00+01:00.")
    ] = None
    until: Annotated[str | None, Parameter(help="Failed before this time.")] = None

    def to_filter(self) -> DeadLetterFilter:
        """Return the filter. Raises ValidationFailed naming the option."""
        return DeadLetterFilter(
            error=self.error,
            notification_id=self.notification,
            template_code=self.template,
            channel=self.channel,
            user_id=self.user,
            since=_parse_instant("--since", self.since),
            until=_parse_instant("--until", self.until),
        )


@Parameter(name="*")
@dataclass(frozen=True)
class DeadLetterSelectorOptions(DeadLetterOptions):
    """Selection of the dead letters to change: filters, ids or --all."""

    id: Annotated[tuple[str, ...], Parameter(help="Dead letter id; repeatable.", consume_multiple=False)] = ()
    all: Annotated[bool, Parameter(help="Select every dead letter; not with a filter.")] = False
    dry_run: Annotated[bool, Parameter(help="Show the effect without changing anything.")] = False
    yes: Annotated[bool, Parameter(help="Do not ask for confirmation.")] = False

    def to_filter(self) -> DeadLetterFilter:
        """Return the filter. A dry run changes nothing, so without a filter it selects every dead letter.

        Raises ValidationFailed for a malformed id, for no filter without --all, and for a filter with --all.
        """
        if invalid := [dead_letter_id for dead_letter_id in self.id if not is_id(dead_letter_id)]:
            raise ValidationFailed(
                f"--id: {invalid[0]!r} must be the id of a dead letter, as `tidings dead-letters list` shows it"
            )
        selected = replace(super().to_filter(), ids=self.id or None)
        if selected == _MATCH_ALL and not (self.all or self.dry_run):
            raise ValidationFailed("--all: is required to select every dead letter; or give a filter such as --error")
        if selected != _MATCH_ALL and self.all:
            raise ValidationFailed("--all: cannot be combined with a filter")
        return selected


@app.command(name="list")
async def list_dead_letters(
    *,
    filters: DeadLetterOptions = DeadLetterOptions(),
    limit: Annotated[int, Parameter(help="Maximum number of results.", validator=Number(gte=1))] = 50,
    before: Annotated[str | None, Parameter(help="Continue before this dead letter id.")] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """List dead letters, newest first."""
    from tidings.api.routes.dead_letters import DeadLetterPage
    from tidings.container import AppContainer

    selected = filters.to_filter()
    if before is not None and not is_id(before):
        raise ValidationFailed("--before: must be the id of a dead letter")
    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.read_snapshot() as tx:
        page = await runtime.store.dead_letters.page(tx, selected, before=before, limit=limit)
    if options.json:
        print_json(DeadLetterPage(items=list(page), next_cursor=None).json_object()["items"])
        return
    rows = [(d.id, d.died_at, d.notification_id, d.template_code, d.user_id, d.channel, d.error) for d in page]
    columns = ("id", "failed", "notification", "template", "user", "channel", "error")
    print_table(columns, rows, empty=_empty_message(selected))
    if len(page) == limit:
        print_hint(options.complete_commands(f"More: tidings dead-letters list --before {page[-1].id}"))


@app.command
async def errors(
    *,
    filters: DeadLetterOptions = DeadLetterOptions(),
    limit: Annotated[int, Parameter(help="Maximum number of results.", validator=Number(gte=1))] = 50,
    options: CliOptions = CliOptions(),
) -> None:
    """Count dead letters by error, the most frequent first."""
    from tidings.api.routes.dead_letters import ErrorGroupsResponse
    from tidings.container import AppContainer

    selected = filters.to_filter()
    async with AppContainer.open(options.require_existing_database()) as runtime, runtime.store.read_snapshot() as tx:
        groups = await runtime.store.dead_letters.group_by_error(tx, selected, limit=limit)
    if options.json:
        print_json(ErrorGroupsResponse(items=list(groups)).json_object()["items"])
        return
    rows = [(group.count, group.error, group.first_at, group.last_at) for group in groups]
    print_table(("count", "error", "first", "last"), rows, empty=_empty_message(selected))


@app.command(name="replay")
async def replay_dead_letters(
    *,
    selector: DeadLetterSelectorOptions = DeadLetterSelectorOptions(),
    rate: Annotated[
        float, Parameter(help="Deliveries per second that become due.", validator=Number(gte=0.1, lte=10_000))
    ] = 100.0,
    limit: Annotated[int | None, Parameter(help="Maximum number.", validator=Number(gte=1))] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """Send dead letters again with a new set of attempts, spread over time. A running server or worker sends them.

    Dead letters whose notification has expired or was cancelled are counted and left unchanged.
    """
    from tidings.api.routes.dead_letters import preview_response
    from tidings.container import AppContainer
    from tidings.flow.recover.dead_letter_replay import (
        ReplayBatch,
        ReplayRate,
        preview_replay,
        remaining_after,
        replay_page,
    )

    selected, replay_rate = selector.to_filter(), ReplayRate(rate)
    async with AppContainer.open(options.require_existing_database()) as runtime:
        store, clock = runtime.store, runtime.clock
        async with store.read_snapshot() as tx:
            preview = await preview_replay(store, tx, selected, rate=replay_rate, now=clock.now())
        if selector.dry_run:
            _print_preview(preview, options, lambda: print_json(preview_response(preview).json_object()))
            return
        _confirm("Replay", preview.replayable, preview.more, limit, yes=selector.yes)
        count, until, last = 0, None, None
        while last is None or not (last.ended or count == limit):
            page_limit = replay_rate.page_size if limit is None else limit - count
            async with store.transaction() as tx:
                last = await replay_page(
                    store, tx, selected, rate=replay_rate, limit=page_limit, now=clock.now(), last=last
                )
            assert isinstance(last, ReplayBatch)
            count, until = count + last.count, last.until or until
        async with store.read_snapshot() as tx:
            remaining = await remaining_after(store, tx, selected, begun=last.begun, now=clock.now())
    if options.json:
        print_json(
            {
                "replayed": count,
                "until": until,
                "expired": remaining.expired,
                "cancelled": remaining.cancelled,
                "unknownIds": list(preview.unknown_ids),
            }
        )
        return
    _print_unknown_ids(preview)
    print(f"{count} replayed" + (f", the last is due at {until.isoformat(timespec='seconds')}" if until else ""))
    if remaining.expired or remaining.cancelled:
        print_hint(f"Not replayed: {remaining.expired} expired, {remaining.cancelled} cancelled.")


@app.command
async def discard(
    *,
    selector: DeadLetterSelectorOptions = DeadLetterSelectorOptions(),
    limit: Annotated[int | None, Parameter(help="Maximum number.", validator=Number(gte=1))] = None,
    options: CliOptions = CliOptions(),
) -> None:
    """Remove dead letters from the list permanently. Each delivery's history is kept."""
    from tidings.api.routes.dead_letters import preview_response
    from tidings.container import AppContainer
    from tidings.flow.recover.dead_letter_replay import (
        MAX_ROWS_PER_TRANSACTION,
        ReplayRate,
        discard_page,
        preview_replay,
    )

    selected = selector.to_filter()
    async with AppContainer.open(options.require_existing_database()) as runtime:
        store, clock = runtime.store, runtime.clock
        async with store.read_snapshot() as tx:
            preview = await preview_replay(
                store, tx, selected, rate=ReplayRate(float(MAX_ROWS_PER_TRANSACTION)), now=clock.now()
            )
        if selector.dry_run:
            _print_preview(preview, options, lambda: print_json(preview_response(preview).json_object()))
            return
        _confirm("Discard", preview.matching, preview.more, limit, yes=selector.yes)
        count, ended = 0, False
        while not (ended or count == limit):
            async with store.transaction() as tx:
                page_limit = MAX_ROWS_PER_TRANSACTION if limit is None else limit - count
                discarded, ended = await discard_page(store, tx, selected, limit=page_limit, now=clock.now())
            count += discarded
    if options.json:
        print_json({"discarded": count, "unknownIds": list(preview.unknown_ids)})
    else:
        _print_unknown_ids(preview)
        print(f"{count} discarded")


def _print_preview(preview: "ReplayPreview", options: CliOptions, print_as_json: Callable[[], None]) -> None:
    if options.json:
        print_as_json()
        return
    prefix = "more than " if preview.more else ""
    print(
        f"{prefix}{preview.matching} match: {preview.replayable} can be replayed, {preview.expired} have expired or "
        f"will expire before they are due, {preview.cancelled} were cancelled"
    )
    if preview.until is not None:
        print(f"the last would be due at {preview.until.isoformat(timespec='seconds')}")
    rows = [(d.id, d.died_at, d.template_code, d.user_id, d.error) for d in preview.sample]
    if rows:
        print_table(("id", "failed", "template", "user", "error"), rows, empty="")
    _print_unknown_ids(preview)


def _empty_message(selected: DeadLetterFilter) -> str:
    if selected == _MATCH_ALL:
        return "No dead letters."
    return "No dead letter matches; `tidings dead-letters errors` shows all."


def _print_unknown_ids(preview: "ReplayPreview") -> None:
    for unknown_id in preview.unknown_ids:
        print_hint(f"{unknown_id} is not a dead letter.")


def _confirm(action: str, count: int, more: bool, limit: int | None, *, yes: bool) -> None:
    """Ask for confirmation. Raises ValidationFailed without a terminal, or if the answer is no."""
    if yes or count == 0:
        return
    number = f"more than {count}" if more else str(count)
    if limit is not None and (more or limit < count):
        number = f"{limit} of {number}"
    if not sys.stdin.isatty():
        raise ValidationFailed(
            f"--yes: is required to {action.lower()} {number} dead letters without a terminal; --dry-run shows them"
        )
    print_hint(f"{action} {number} dead letters? [y/N] ")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise ValidationFailed("not confirmed; nothing was changed")


def _parse_instant(option: str, text: str | None) -> datetime | None:
    from tidings.schemas.field_types import parse_instant

    if text is None:
        return None
    try:
        instant = parse_instant(text)
    except ValueError as error:
        raise ValidationFailed(f"{option}: {error}") from error
    assert isinstance(instant, datetime)
    return instant
