"""Parses the jobs of other services: from name and data to a `JobRequest` (docs/reference/jobs.md). Pure."""

import json
from difflib import get_close_matches
from typing import TypeVar

from pydantic import BaseModel, Field, JsonValue

from tidings.errors import FieldError, ValidationFailed
from tidings.model.audience import MAX_USER_IDS
from tidings.schemas import field_types, json_body, legacy_jobs
from tidings.schemas.field_types import SmallObject, UserId
from tidings.schemas.job_request import FailedRecipient, JobRequest, with_priority
from tidings.schemas.notification_request import NotifyOptions

#: names of jobs for one user
SINGLE = ("publish-notification", "send-notification")
#: names of jobs for several users
BATCH = ("publish-batch-notification", "batch-notification")
JOB_NAMES = (*SINGLE, *BATCH, *legacy_jobs.JOB_NAMES)
#: characters of a malformed id in its error
_MAX_REPORTED_LENGTH = 200


class _Job(NotifyOptions):
    """Options can be given in `options`, as in the HTTP API, or at the top level."""

    template_code: str = Field(min_length=1, max_length=100)
    variables: SmallObject = Field(default_factory=dict)
    options: NotifyOptions = Field(default_factory=NotifyOptions)


class _SingleJob(_Job):
    user_id: UserId


class _BatchJob(_Job):
    # validated one by one, so that a malformed id fails alone
    user_ids: list[JsonValue] = Field(min_length=1, max_length=MAX_USER_IDS)


ModelT = TypeVar("ModelT", bound=BaseModel)


def parse_job(name: str, data: object, *, priority: int = 0) -> JobRequest:
    """Return the request of a job.

    data: decoded JSON; priority: the BullMQ job's, 0 = none. Raises ValidationFailed naming each invalid field and the
    fix.
    """
    if name in SINGLE:
        single = _parse_data(data, _SingleJob)
        return _build_job_request(single, priority, recipients=(single.user_id,))
    if name in BATCH:
        batch = _parse_data(data, _BatchJob)
        recipients, failed = _split_user_ids(batch.user_ids)
        return _build_job_request(batch, priority, recipients=recipients, failed_recipients=failed, is_batch=True)
    if name == legacy_jobs.SEND_EMAIL:
        return legacy_jobs.from_email_job(_parse_data(data, legacy_jobs.EmailJob), priority)
    if name == legacy_jobs.SEND_SMS:
        return legacy_jobs.from_sms_job(_parse_data(data, legacy_jobs.SmsJob), priority)
    close = get_close_matches(name, JOB_NAMES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(JOB_NAMES)}"
    raise ValidationFailed.for_field("name", f"unknown job name {name[:100]!r}; {hint}", code="unknown_job")


def _parse_data(data: object, model: type[ModelT]) -> ModelT:
    if not isinstance(data, dict):
        raise ValidationFailed.for_field("data", "must be a JSON object with the fields of the job")
    try:
        # encoded again, to apply the same checks as for request bodies; JSON has no NaN
        raw = json.dumps(data, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValidationFailed.for_field("data", f"must be JSON: {error}") from error
    return json_body.parse_body(raw, model)


def _build_job_request(
    job: _Job,
    priority: int,
    *,
    recipients: tuple[str, ...],
    failed_recipients: tuple[FailedRecipient, ...] = (),
    is_batch: bool = False,
) -> JobRequest:
    top_level = {name: value for name in NotifyOptions.model_fields if (value := getattr(job, name))}
    nested = {name for name in NotifyOptions.model_fields if getattr(job.options, name)}
    aliases = {name: str(NotifyOptions.model_fields[name].alias) for name in top_level}
    if duplicates := [aliases[name] for name in top_level if name in nested]:
        raise ValidationFailed.from_errors(
            [FieldError(name, f"is also given as options.{name}; give it once") for name in duplicates]
        )
    options = job.options.model_copy(update=top_level)
    if options.delay is not None and options.send_at is not None:
        raise ValidationFailed("give delay or sendAt, not both")
    if options.dry_run:
        field = "dryRun" if "dry_run" in top_level else "options.dryRun"
        raise ValidationFailed.for_field(field, "is only supported by POST /api/notifications, not by jobs")
    return JobRequest(
        template_code=job.template_code,
        variables=job.variables,
        options=with_priority(options, priority),
        recipients=recipients,
        failed_recipients=failed_recipients,
        is_batch=is_batch,
        top_level_options=frozenset(aliases.values()),
    )


def _split_user_ids(user_ids: list[JsonValue]) -> tuple[tuple[str, ...], tuple[FailedRecipient, ...]]:
    valid: dict[str, None] = {}
    failed: list[FailedRecipient] = []
    for value in user_ids:
        try:
            valid[_check_user_id(value)] = None
        except ValueError as error:
            text = value if isinstance(value, str) else json.dumps(value)
            failed.append(FailedRecipient(text[:_MAX_REPORTED_LENGTH], str(error)))
    return tuple(valid), tuple(failed)


def _check_user_id(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return field_types.check_user_id(value)
