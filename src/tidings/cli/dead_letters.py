"""`tidings dead-letters`: look at what was given up, send it again, or put it away."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tidings.cli.options import Options
from tidings.cli.output import hint, print_json, print_table
from tidings.errors import Invalid
from tidings.model.ids import is_id
from tidings.ports.operations import DeadLetterFilter

if TYPE_CHECKING:
    from tidings.flow.replay import Survey

app = App(name="dead-letters", help="List what was given up, send it again, or put it away.")

_EVERYTHING = DeadLetterFilter()


@Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Which dead letters: all that fit everything that is said."""

    error: Annotated[
        str | None, Parameter(help="With this error as it is shown, or with what it says before a colon.")
    ] = None
    notification: Annotated[str | None, Parameter(help="Of this notification.")] = None
    template: Annotated[str | None, Parameter(help="Of notifications with this template code.")] = None
    channel: Annotated[str | None, Parameter(help="On this channel.")] = None
    user: Annotated[str | None, Parameter(help="To this user.")] = None
    since: Annotated[
        str | None, Parameter(help="Died at this instant or later, such as 2026-11-22T19:30:00+01:00.")
    ] = None
    until: Annotated[str | None, Parameter(help="Died before this instant.")] = None

    def filter(self) -> DeadLetterFilter:
        """Return the filter. Raises Invalid naming the option."""
        return DeadLetterFilter(
            error=self.error,
            notification_id=self.notification,
            template_code=self.template,
            channel=self.channel,
            user_id=self.user,
            since=_instant("--since", self.since),
            until=_instant("--until", self.until),
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Chosen(Which):
    """Which dead letters something is done to."""

    id: Annotated[tuple[str, ...], Parameter(help="This dead letter; repeat for several.", consume_multiple=False)] = ()
    all: Annotated[bool, Parameter(help="Every dead letter, where nothing else is said.")] = False
    dry_run: Annotated[bool, Parameter(help="Say what would be done, and do nothing.")] = False
    yes: Annotated[bool, Parameter(help="Do not ask.")] = False

    def filter(self) -> DeadLetterFilter:
        """Return the filter. Raises Invalid where none is given and --all does not say that every one is meant.

        To look does no harm: a dry run without a filter means every one.
        """
        if odd := [one for one in self.id if not is_id(one)]:
            raise Invalid(f"--id: {odd[0]!r} must be the id of a dead letter, as `tidings dead-letters list` shows it")
        found = replace(super().filter(), ids=self.id or None)
        if found == _EVERYTHING and not (self.all or self.dry_run):
            raise Invalid("--all: say it to mean every dead letter; or name a filter such as --error")
        if found != _EVERYTHING and self.all:
            raise Invalid("--all: means every dead letter; leave it out where a filter is named")
        return found


@app.command(name="list")
async def list_dead_letters(
    *,
    which: Which = Which(),
    limit: Annotated[int, Parameter(help="At most this many.", validator=Number(gte=1))] = 50,
    before: Annotated[str | None, Parameter(help="Continue with those older than this dead letter's id.")] = None,
    options: Options = Options(),
) -> None:
    """List dead letters, newest first."""
    from tidings.api.dead_letters import DeadLetterShown
    from tidings.runtime import Runtime

    wanted = which.filter()
    if before is not None and not is_id(before):
        raise Invalid("--before: must be the id of a dead letter")
    async with Runtime.open(options.existing()) as runtime, runtime.store.read() as tx:
        found = await runtime.store.dead_letters.page(tx, wanted, before=before, limit=limit)
    if options.json:
        print_json([DeadLetterShown.model_validate(one).json_object() for one in found])
        return
    rows = [
        (one.id, one.died_at, one.notification_id, one.template_code, one.user_id, one.channel, one.error)
        for one in found
    ]
    columns = ("id", "died", "notification", "template", "user", "channel", "error")
    print_table(columns, rows, empty=_none(wanted))
    if len(found) == limit:
        hint(f"More: tidings dead-letters list --before {found[-1].id}")


@app.command
async def errors(
    *,
    which: Which = Which(),
    limit: Annotated[int, Parameter(help="At most this many.", validator=Number(gte=1))] = 50,
    options: Options = Options(),
) -> None:
    """Count dead letters by error, the most frequent first."""
    from tidings.api.dead_letters import ErrorGroupShown
    from tidings.runtime import Runtime

    wanted = which.filter()
    async with Runtime.open(options.existing()) as runtime, runtime.store.read() as tx:
        found = await runtime.store.dead_letters.by_error(tx, wanted, limit=limit)
    if options.json:
        print_json([ErrorGroupShown.model_validate(one).json_object() for one in found])
        return
    rows = [(one.count, one.error, one.first_at, one.last_at) for one in found]
    print_table(("count", "error", "first", "last"), rows, empty=_none(wanted))


@app.command(name="replay")
async def replay_dead_letters(
    *,
    which: Chosen = Chosen(),
    rate: Annotated[
        float, Parameter(help="Deliveries per second that come due.", validator=Number(gte=0.1, lte=10_000))
    ] = 100.0,
    limit: Annotated[int | None, Parameter(help="At most this many.", validator=Number(gte=1))] = None,
    options: Options = Options(),
) -> None:
    """Send dead letters again, with fresh tries, spread over time; a running server or worker sends them.

    Those whose notification has expired or was cancelled stay dead, and are counted.
    """
    from tidings.api.dead_letters import shown
    from tidings.flow.replay import Pace, Replayed, left, replay_page, survey
    from tidings.runtime import Runtime

    wanted, pace = which.filter(), Pace(rate)
    async with Runtime.open(options.existing()) as runtime:
        store, clock = runtime.store, runtime.clock
        async with store.read() as tx:
            found = await survey(store, tx, wanted, pace=pace, now=clock.now())
        if which.dry_run:
            _show(found, options, lambda: print_json(shown(found).json_object()))
            return
        _confirm("Replay", found.replayable, found.more, limit, yes=which.yes)
        count, until, last = 0, None, None
        while last is None or not (last.ended or count == limit):
            most = pace.page if limit is None else limit - count
            async with store.begin() as tx:
                last = await replay_page(store, tx, wanted, pace=pace, most=most, now=clock.now(), last=last)
            assert isinstance(last, Replayed)
            count, until = count + last.count, last.until or until
        async with store.read() as tx:
            rest = await left(store, tx, wanted, begun=last.begun, now=clock.now())
    if options.json:
        print_json(
            {
                "replayed": count,
                "until": until,
                "expired": rest.expired,
                "cancelled": rest.cancelled,
                "unknownIds": list(found.unknown_ids),
            }
        )
        return
    _say_unknown(found)
    print(f"{count} replayed" + (f", the last is due at {until.isoformat(timespec='seconds')}" if until else ""))
    if rest.expired or rest.cancelled:
        hint(f"Left: {rest.expired} whose notification has expired, {rest.cancelled} whose was cancelled.")


@app.command
async def discard(
    *,
    which: Chosen = Chosen(),
    limit: Annotated[int | None, Parameter(help="At most this many.", validator=Number(gte=1))] = None,
    options: Options = Options(),
) -> None:
    """Take dead letters off the list for good. Each delivery's history stays."""
    from tidings.api.dead_letters import shown
    from tidings.flow.replay import PAGE, Pace, discard_page, survey
    from tidings.runtime import Runtime

    wanted = which.filter()
    async with Runtime.open(options.existing()) as runtime:
        store, clock = runtime.store, runtime.clock
        async with store.read() as tx:
            found = await survey(store, tx, wanted, pace=Pace(float(PAGE)), now=clock.now())
        if which.dry_run:
            _show(found, options, lambda: print_json(shown(found).json_object()))
            return
        _confirm("Discard", found.matching, found.more, limit, yes=which.yes)
        count, ended = 0, False
        while not (ended or count == limit):
            async with store.begin() as tx:
                most = PAGE if limit is None else limit - count
                done, ended = await discard_page(store, tx, wanted, most=most, now=clock.now())
            count += done
    if options.json:
        print_json({"discarded": count, "unknownIds": list(found.unknown_ids)})
    else:
        _say_unknown(found)
        print(f"{count} discarded")


def _show(found: "Survey", options: Options, as_json: Callable[[], None]) -> None:
    if options.json:
        as_json()
        return
    many = "more than " if found.more else ""
    print(
        f"{many}{found.matching} match: {found.replayable} can be replayed, {found.expired} have expired or will have "
        f"before their turn, {found.cancelled} were cancelled"
    )
    if found.until is not None:
        print(f"the last would be due at {found.until.isoformat(timespec='seconds')}")
    rows = [(one.id, one.died_at, one.template_code, one.user_id, one.error) for one in found.sample]
    if rows:
        print_table(("id", "died", "template", "user", "error"), rows, empty="")
    _say_unknown(found)


def _none(which: DeadLetterFilter) -> str:
    return (
        "No dead letters." if which == _EVERYTHING else "No dead letter fits; `tidings dead-letters errors` shows all."
    )


def _say_unknown(found: "Survey") -> None:
    for one in found.unknown_ids:
        hint(f"{one} is no dead letter.")


def _confirm(what: str, count: int, more: bool, limit: int | None, *, yes: bool) -> None:
    """Ask whoever sits there. Raises Invalid when nobody does, or the answer is no."""
    if yes or count == 0:
        return
    number = f"more than {count}" if more else str(count)
    if limit is not None and (more or limit < count):
        number = f"{limit} of {number}"
    if not sys.stdin.isatty():
        raise Invalid(f"--yes: {what.lower()} {number} dead letters? say --yes to do it, --dry-run to look")
    hint(f"{what} {number} dead letters? [y/N] ")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise Invalid("nothing was done")


def _instant(option: str, text: str | None) -> datetime | None:
    from tidings.edge.fields import instant

    if text is None:
        return None
    try:
        moment = instant(text)
    except ValueError as error:
        raise Invalid(f"{option}: {error}") from error
    assert isinstance(moment, datetime)
    return moment
