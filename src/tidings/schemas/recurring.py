"""The body of PUT /api/recurring/{name}, and the notification request of a run. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from tidings.model.audience import Audience, from_json, timezones
from tidings.model.recurring import RECURRING_TIME, SOURCE_PREFIX, RecurringNotification
from tidings.model.request import NotifyRequest
from tidings.model.subject import DefaultVersion
from tidings.schemas.field_types import SmallObject, check_printable, normalize_timezone
from tidings.schemas.json_body import RequestModel
from tidings.schemas.notification_request import ContentOptions, build_content_request

#: recurring times of one notification
MAX_TIMES = 10
#: `timezone` of a recurring notification that each user receives on their own clock
USER_ZONE = "user"
#: a run that a killed worker was making is claimed again after 75 seconds; a shorter catch-up would lose it
MIN_CATCH_UP_SECONDS = 120
MAX_CATCH_UP_SECONDS = 31 * 86_400
#: push services keep a message for at most 28 days
MAX_EXPIRY_SECONDS = 28 * 86_400


def _check_time(text: str) -> str:
    if not re.fullmatch(RECURRING_TIME, text):
        raise ValueError("must be a time such as 09:00, MON 09:00, 15 09:00 (days 1 to 28) or LAST 09:00")
    return text


def _check_zone(text: str) -> str:
    if text == USER_ZONE:
        return text
    try:
        return normalize_timezone(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {USER_ZONE} for each user's own") from None


RecurringTime = Annotated[
    str, AfterValidator(_check_time), WithJsonSchema({"type": "string", "pattern": RECURRING_TIME})
]


class RecurringOptions(ContentOptions):
    """Priority, channels, action, subject and plan of each notification. Defaults come from the template."""

    expires_after_seconds: int | None = Field(
        None, ge=1, le=MAX_EXPIRY_SECONDS, description="latest time to send, from the acceptance of a notification"
    )


class RecurringBody(RequestModel):
    """What is sent when, and where its variables come from."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "templateCode": "MESSAGE",
                    "audience": {"kind": "saved", "name": "customers"},
                    "variables": {"title": "Your week"},
                    "variablesUrl": "https://shop.example/tidings/week",
                    "at": ["MON 09:00"],
                    "timezone": "user",
                    "options": {"channels": ["email"], "expiresAfterSeconds": 86_400},
                }
            ]
        }
    )

    template_code: str = Field(min_length=1, max_length=100)
    audience: dict[str, JsonValue] = Field(
        description='such as {"kind": "saved", "name": "…"}; who is in it when a run is due'
    )
    at: list[RecurringTime] = Field(
        min_length=1,
        max_length=MAX_TIMES,
        description="times such as 09:00, MON 09:00, 15 09:00 (a day of the month, up to 28) or LAST 09:00",
    )
    timezone: Annotated[str, AfterValidator(_check_zone)] = Field(
        description="IANA name, or user: each user receives it when their own clock shows the time"
    )
    variables: SmallObject = Field(default_factory=dict)
    variables_url: str | None = Field(
        None, max_length=2048, description="is asked for further variables when a run is due, in a signed POST"
    )
    variables_function: str | None = Field(
        None, min_length=1, max_length=100, description="function of a pack that returns further variables"
    )
    options: RecurringOptions = Field(default_factory=RecurringOptions)
    catch_up_seconds: int | None = Field(
        None,
        ge=MIN_CATCH_UP_SECONDS,
        le=MAX_CATCH_UP_SECONDS,
        description="how late a run may be made; default, and at most: until the next one",
    )
    description: Annotated[str, AfterValidator(check_printable)] = Field("", max_length=300)

    @field_validator("at", mode="before")
    @classmethod
    def _wrap_single_time(cls, at: object) -> object:
        return [at] if isinstance(at, str) else at

    @model_validator(mode="after")
    def _check_single_source(self) -> Self:
        if self.variables_url is not None and self.variables_function is not None:
            raise ValueError("give variablesUrl or variablesFunction, not both")
        return self


def to_recurring(name: str, body: RecurringBody) -> RecurringNotification:
    """Return the recurring notification of a validated body. Raises ValidationFailed naming the field."""
    return RecurringNotification(
        name=name,
        template_code=body.template_code,
        audience=from_json(body.audience),
        at=tuple(dict.fromkeys(body.at)),
        timezone=None if body.timezone == USER_ZONE else body.timezone,
        variables=body.variables,
        options=body.options.model_dump(mode="json", by_alias=True, exclude_unset=True),
        variables_url=body.variables_url,
        variables_function=body.variables_function,
        catch_up=None if body.catch_up_seconds is None else timedelta(seconds=body.catch_up_seconds),
        description=body.description,
    )


def limit_to_zones(audience: Audience, names: Sequence[str]) -> Audience:
    """Return the audience of a run for the users of some time zones, as they are stored."""
    return audience & timezones(*names)


def build_run_request(
    recurring: RecurringNotification,
    audience: Audience,
    variables: Mapping[str, object],
    now: datetime,
    version: DefaultVersion | None = None,
) -> NotifyRequest:
    """Return the request of a run that is made now.

    variables: the stored ones with those of the source. version: of a subject that names none.
    """
    options = RecurringOptions.model_validate(recurring.options)
    lifetime = options.expires_after_seconds
    request = build_content_request(
        recurring.template_code,
        audience,
        variables,
        options,
        source=f"{SOURCE_PREFIX}{recurring.name}",
        expires_at=None if lifetime is None else now + timedelta(seconds=lifetime),
    )
    return replace(request, default_version=version)
