"""The body of POST /api/notifications, from JSON to a `NotifyRequest`. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator

from tidings.edge.bodies import Body
from tidings.edge.fields import ActionUrl, Instant, SmallObject, UserId
from tidings.edge.text import Label
from tidings.errors import Fault, Invalid
from tidings.model.audience import Audience, from_json, users
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest

#: user ids named in one request; for more there are audiences
MAX_USER_IDS = 10_000
#: the furthest a notification may be planned ahead
MAX_AHEAD = timedelta(days=365)


class NotifyOptions(Body):
    """How and when; what is left out is as the template says."""

    priority: Literal["urgent", "high", "normal", "low"] | None = None
    delay: int | None = Field(None, ge=0, description="milliseconds from now")
    send_at: Instant | None = Field(None, description="not before; instead of delay")
    expires_at: Instant | None = Field(None, description="nothing is sent after this")
    channels: list[str] = Field(default_factory=list, max_length=20, description="only these; empty = all")
    action_url: ActionUrl | None = Field(
        None, description="what a click opens: http(s) URL, or path with one leading /"
    )
    action_text: Label | None = Field(None, description="label of a button that opens actionUrl")
    dry_run: bool = Field(False, description="only say what would happen")

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.delay is not None and self.send_at is not None:
            raise ValueError("give delay or sendAt, not both")
        return self


class NotifyBody(Body):
    """Tell an audience something. Exactly one of userId, userIds and audience says whom."""

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
    def _one_audience(
        cls, audience: dict[str, JsonValue] | None, others: ValidationInfo
    ) -> dict[str, JsonValue] | None:
        # what is wrong in itself is not among the others, and its own fault is enough
        if {"user_id", "user_ids"} <= others.data.keys():
            given = [one for one in (others.data["user_id"], others.data["user_ids"], audience) if one is not None]
            if len(given) != 1:
                raise ValueError("give exactly one of userId, userIds and audience")
        return audience


def to_request(body: NotifyBody, now: datetime) -> NotifyRequest:
    """Return the request of a checked body. Raises Invalid naming the field."""
    return request_of(body.template_code, _audience(body), body.variables, body.options, now, source="api")


def request_of(
    template_code: str,
    audience: Audience,
    variables: Mapping[str, object],
    options: NotifyOptions,
    now: datetime,
    *,
    source: str,
) -> NotifyRequest:
    """Return the request of parts that were checked each. Raises Invalid naming the field, such as `options.sendAt`."""
    return NotifyRequest(
        template_code=template_code,
        audience=audience,
        variables=variables,
        priority=None if options.priority is None else Priority(options.priority),
        send_at=_send_at(options, now),
        expires_at=_expires_at(options, now),
        channels=tuple(dict.fromkeys(options.channels)),
        action_url=options.action_url,
        action_text=options.action_text,
        source=source,
    )


def as_called(body: NotifyBody, error: Invalid) -> Invalid:
    """Give faults of the audience the name that the caller used: `userId` instead of `userIds`, and so on."""
    if body.audience is not None:
        return error
    name = "userId" if body.user_id is not None else "userIds"
    faults = [Fault(name, one.message) if _is_audience(one.field) else one for one in error.faults]
    return error if faults == list(error.faults) else Invalid.of(faults, code=error.code)


def _is_audience(field: str) -> bool:
    return field == "userIds" or field.startswith("audience")


def _audience(body: NotifyBody) -> Audience:
    if body.user_id is not None:
        return users(body.user_id)
    if body.user_ids is not None:
        return users(*body.user_ids)
    return from_json(body.audience)


def _send_at(options: NotifyOptions, now: datetime) -> datetime | None:
    if options.delay is not None:
        if options.delay > MAX_AHEAD / timedelta(milliseconds=1):
            raise Invalid.field("options.delay", f"must be at most {MAX_AHEAD.days} days, in milliseconds")
        return now + timedelta(milliseconds=options.delay)
    if options.send_at is not None and options.send_at > now + MAX_AHEAD:
        raise Invalid.field("options.sendAt", f"must be at most {MAX_AHEAD.days} days ahead")
    return options.send_at


def _expires_at(options: NotifyOptions, now: datetime) -> datetime | None:
    start = max(_send_at(options, now) or now, now)
    if options.expires_at is not None and options.expires_at <= start:
        raise Invalid.field("options.expiresAt", "must be later than the moment of sending")
    return options.expires_at
