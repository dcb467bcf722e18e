"""A job that another service added, from its name and data to what it asks for (docs/reference/jobs.md). Pure."""

import json
from difflib import get_close_matches
from typing import TypeVar

from pydantic import BaseModel, Field, JsonValue

from tidings.edge import bodies, fields, old_jobs
from tidings.edge.asked import Asked, NotTold, with_priority
from tidings.edge.fields import SmallObject, UserId
from tidings.edge.notify_body import MAX_USER_IDS, NotifyOptions
from tidings.errors import Fault, Invalid

#: to one user
SINGLE = ("publish-notification", "send-notification")
#: to many
BATCH = ("publish-batch-notification", "batch-notification")
NAMES = (*SINGLE, *BATCH, *old_jobs.NAMES)
#: characters of a wrong id that are shown
_SHOWN = 200


class _Job(NotifyOptions):
    """Options may stand in `options`, as in the HTTP API, or beside the other fields."""

    template_code: str = Field(min_length=1, max_length=100)
    variables: SmallObject = Field(default_factory=dict)
    options: NotifyOptions = Field(default_factory=NotifyOptions)


class _SingleJob(_Job):
    user_id: UserId


class _BatchJob(_Job):
    # each is looked at by itself: a wrong one holds up nobody else
    user_ids: list[JsonValue] = Field(min_length=1, max_length=MAX_USER_IDS)


ModelT = TypeVar("ModelT", bound=BaseModel)


def read(name: str, data: object, *, priority: int = 0) -> Asked:
    """Return what a job asks for.

    data: decoded JSON; priority: BullMQ's own of the job, 0 = none. Raises Invalid naming each wrong field and the fix.
    """
    if name in SINGLE:
        single = _checked(data, _SingleJob)
        return _asked(single, priority, whom=(single.user_id,))
    if name in BATCH:
        batch = _checked(data, _BatchJob)
        good, wrong = _parted(batch.user_ids)
        return _asked(batch, priority, whom=good, wrong=wrong, many=True)
    if name == old_jobs.SEND_EMAIL:
        return old_jobs.email(_checked(data, old_jobs.EmailJob), priority)
    if name == old_jobs.SEND_SMS:
        return old_jobs.sms(_checked(data, old_jobs.SmsJob), priority)
    close = get_close_matches(name, NAMES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(NAMES)}"
    raise Invalid.field("name", f"no kind of job is called {name[:100]!r}; {hint}", code="unknown_job")


def _checked(data: object, model: type[ModelT]) -> ModelT:
    if not isinstance(data, dict):
        raise Invalid.field("data", "must be a JSON object with the fields of the job")
    try:
        # the way of every body: depth, characters, spelling; and JSON has no NaN
        raw = json.dumps(data, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise Invalid.field("data", f"must be JSON: {error}") from error
    return bodies.read(raw, model)


def _asked(
    job: _Job, priority: int, *, whom: tuple[str, ...], wrong: tuple[NotTold, ...] = (), many: bool = False
) -> Asked:
    beside = {name: value for name in NotifyOptions.model_fields if (value := getattr(job, name))}
    given = {name for name in NotifyOptions.model_fields if getattr(job.options, name)}
    spelling = {name: str(NotifyOptions.model_fields[name].alias) for name in beside}
    if twice := [spelling[name] for name in beside if name in given]:
        raise Invalid.of([Fault(name, f"is also in options.{name}: give it once") for name in twice])
    options = job.options.model_copy(update=beside)
    if options.delay is not None and options.send_at is not None:
        raise Invalid("give delay or sendAt, not both")
    if options.dry_run:
        where = "dryRun" if "dry_run" in beside else "options.dryRun"
        raise Invalid.field(where, "is for POST /api/notifications; a job is always carried out")
    return Asked(
        template_code=job.template_code,
        variables=job.variables,
        options=with_priority(options, priority),
        whom=whom,
        wrong=wrong,
        many=many,
        beside=frozenset(spelling.values()),
    )


def _parted(user_ids: list[JsonValue]) -> tuple[tuple[str, ...], tuple[NotTold, ...]]:
    good: dict[str, None] = {}
    wrong: list[NotTold] = []
    for one in user_ids:
        try:
            good[_user_id(one)] = None
        except ValueError as error:
            shown = one if isinstance(one, str) else json.dumps(one)
            wrong.append(NotTold(shown[:_SHOWN], str(error)))
    return tuple(good), tuple(wrong)


def _user_id(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return fields.user_id(value)
