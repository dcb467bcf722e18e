"""The body of POST /api/notifications, and its conversion to a `NotifyRequest`. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator

from tidings.errors import FieldError, ValidationFailed
from tidings.model.audience import MAX_USER_IDS, Audience, from_json, users
from tidings.model.priority import Priority
from tidings.model.request import MAX_SCHEDULE_AHEAD, NotifyRequest
from tidings.model.subject import MAX_VERSION, SubjectRequest
from tidings.schemas.field_types import ActionUrl, Instant, Label, SmallObject, SubjectKey, UserId
from tidings.schemas.json_body import RequestModel
from tidings.schemas.plan_options import PlanOptionsBody


class SubjectBody(RequestModel):
    """What a notification is about."""

    key: SubjectKey
    version: int | None = Field(
        None, ge=0, le=MAX_VERSION, description="orders the notifications on the subject; default: the next number"
    )
    state: SmallObject | None = Field(
        None, description="what the notification says of the subject; who last heard the same is not notified again"
    )
    previous_state: SmallObject | None = Field(None, description="what held before")


class ContentOptions(PlanOptionsBody):
    """Priority, channels, action, subject and plan of a notification. Defaults come from the template."""

    priority: Literal["urgent", "high", "normal", "low"] | None = None
    channels: list[str] = Field(default_factory=list, max_length=20, description="only these channels; empty = all")
    action_url: ActionUrl | None = Field(
        None, description="target of a click: an http(s) URL, or a path with one leading /"
    )
    action_text: Label | None = Field(None, description="label of a button that opens actionUrl")
    subject: SubjectKey | SubjectBody | None = Field(
        None,
        description="what it is about, such as order:7; it supersedes what is unsent of older notifications, and "
        "replaces what was sent where it is shown",
    )


class NotifyOptions(ContentOptions):
    """Times of a notification, and its other options."""

    delay: int | None = Field(None, ge=0, description="milliseconds from now")
    send_at: Instant | None = Field(None, description="earliest time to send; excludes delay")
    expires_at: Instant | None = Field(None, description="latest time to send")
    dry_run: bool = Field(False, description="estimate the effect without storing anything")

    @model_validator(mode="after")
    def _check_single_start(self) -> Self:
        if self.delay is not None and self.send_at is not None:
            raise ValueError("give delay or sendAt, not both")
        return self


class NotifyBody(RequestModel):
    """A notification for an audience: exactly one of userId, userIds and audience."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "userId": "user-123",
                    "templateCode": "MESSAGE",
                    "variables": {"title": "Doors open at seven", "body": "See you tonight."},
                    "options": {"priority": "high", "actionUrl": "/orders/1"},
                }
            ]
        }
    )

    template_code: str = Field(min_length=1, max_length=100)
    user_id: UserId | None = None
    user_ids: list[UserId] | None = Field(None, min_length=1, max_length=MAX_USER_IDS)
    audience: dict[str, JsonValue] | None = Field(
        None,
        validate_default=True,
        description='such as {"kind": "ticket_holders", "eventId": "…"}; combined with or, and, not',
    )
    variables: SmallObject = Field(default_factory=dict)
    options: NotifyOptions = Field(default_factory=NotifyOptions)

    @field_validator("audience")
    @classmethod
    def _check_single_audience(
        cls, audience: dict[str, JsonValue] | None, info: ValidationInfo
    ) -> dict[str, JsonValue] | None:
        # fields that failed validation are missing in `data`, and have their own error
        if {"user_id", "user_ids"} <= info.data.keys():
            audiences = (info.data["user_id"], info.data["user_ids"], audience)
            if sum(value is not None for value in audiences) != 1:
                raise ValueError("give exactly one of userId, userIds and audience")
        return audience


def to_notify_request(body: NotifyBody, now: datetime) -> NotifyRequest:
    """Return the request of a validated body. Raises ValidationFailed naming the field."""
    return build_notify_request(
        body.template_code, _build_audience(body), body.variables, body.options, now, source="api"
    )


def build_notify_request(
    template_code: str,
    audience: Audience,
    variables: Mapping[str, object],
    options: NotifyOptions,
    now: datetime,
    *,
    source: str,
) -> NotifyRequest:
    """Return the request of validated parts. Raises ValidationFailed naming the field, such as `options.sendAt`."""
    return build_content_request(
        template_code,
        audience,
        variables,
        options,
        source=source,
        send_at=_resolve_send_at(options, now),
        expires_at=_resolve_expires_at(options, now),
    )


def build_content_request(
    template_code: str,
    audience: Audience,
    variables: Mapping[str, object],
    options: ContentOptions,
    *,
    source: str,
    send_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> NotifyRequest:
    """Return the request of validated parts with resolved times."""
    return NotifyRequest(
        template_code=template_code,
        audience=audience,
        variables=variables,
        priority=None if options.priority is None else Priority(options.priority),
        send_at=send_at,
        expires_at=expires_at,
        channels=tuple(dict.fromkeys(options.channels)),
        action_url=options.action_url,
        action_text=options.action_text,
        source=source,
        subject=_to_subject(options.subject),
        **options.to_request_fields(),
    )


def with_caller_field_names(body: NotifyBody, error: ValidationFailed) -> ValidationFailed:
    """Return the error with the caller's name of the audience field, such as `userId` instead of `userIds`."""
    if body.audience is not None:
        return error
    name = "userId" if body.user_id is not None else "userIds"
    errors = [FieldError(name, each.message) if _is_audience_field(each.field) else each for each in error.field_errors]
    return error if errors == list(error.field_errors) else ValidationFailed.from_errors(errors, code=error.code)


def _to_subject(subject: str | SubjectBody | None) -> SubjectRequest | None:
    if isinstance(subject, SubjectBody):
        return SubjectRequest(subject.key, subject.version, subject.state, subject.previous_state)
    return None if subject is None else SubjectRequest(subject)


def _is_audience_field(field: str) -> bool:
    return field == "userIds" or field.startswith("audience")


def _build_audience(body: NotifyBody) -> Audience:
    if body.user_id is not None:
        return users(body.user_id)
    if body.user_ids is not None:
        return users(*body.user_ids)
    return from_json(body.audience)


def _resolve_send_at(options: NotifyOptions, now: datetime) -> datetime | None:
    if options.delay is not None:
        if options.delay > MAX_SCHEDULE_AHEAD / timedelta(milliseconds=1):
            raise ValidationFailed.for_field(
                "options.delay", f"must be at most {MAX_SCHEDULE_AHEAD.days} days, in milliseconds"
            )
        return now + timedelta(milliseconds=options.delay)
    if options.send_at is not None and options.send_at > now + MAX_SCHEDULE_AHEAD:
        raise ValidationFailed.for_field("options.sendAt", f"must be at most {MAX_SCHEDULE_AHEAD.days} days ahead")
    return options.send_at


def _resolve_expires_at(options: NotifyOptions, now: datetime) -> datetime | None:
    start = max(_resolve_send_at(options, now) or now, now)
    if options.expires_at is not None and options.expires_at <= start:
        raise ValidationFailed.for_field("options.expiresAt", "must be later than the time of sending")
    return options.expires_at
