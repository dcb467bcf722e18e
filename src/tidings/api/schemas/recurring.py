"""Responses about recurring notifications and their runs."""

from datetime import datetime
from typing import Self

from pydantic import JsonValue

from tidings.model.audience import to_json
from tidings.model.recurring import RecurringNotification, RecurringRun, RunState
from tidings.schemas.recurring import USER_ZONE
from tidings.schemas.response_models import ResponseModel


class RecurringResponse(ResponseModel):
    """A recurring notification."""

    name: str
    description: str
    template_code: str
    audience: dict[str, JsonValue]
    variables: dict[str, JsonValue]
    variables_url: str | None
    variables_function: str | None
    options: dict[str, JsonValue]
    at: list[str]
    #: IANA name, or `user`: each user's own
    timezone: str
    catch_up_seconds: int | None
    is_paused: bool
    #: null while it is paused. With the time zone `user`, the next time anywhere
    next_run_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None

    @classmethod
    def from_recurring(cls, recurring: RecurringNotification) -> Self:
        """Return the response for a recurring notification."""
        catch_up = recurring.catch_up
        return cls.model_validate(
            {
                **{name: getattr(recurring, name) for name in cls.model_fields if hasattr(recurring, name)},
                "audience": to_json(recurring.audience),
                "at": list(recurring.at),
                "timezone": USER_ZONE if recurring.timezone is None else recurring.timezone,
                "catch_up_seconds": None if catch_up is None else int(catch_up.total_seconds()),
            }
        )


class RecurringPage(ResponseModel):
    """Recurring notifications, in the order of their names."""

    items: list[RecurringResponse]
    next_cursor: str | None


class RecurringRunResponse(ResponseModel):
    """A run of a recurring notification."""

    id: str
    name: str
    scheduled_at: datetime
    #: it is not made at or after this instant
    deadline: datetime
    #: with the time zone `user`: the time zones of the users that it is for, empty = those who have set none
    timezones: list[str] | None
    #: a caller started it
    is_manual: bool
    state: RunState
    attempts: int
    #: of the next attempt; null after the end
    next_attempt_at: datetime | None
    notification_id: str | None
    #: why it was not made, or why the last attempt failed
    reason: str | None
    finished_at: datetime | None

    @classmethod
    def from_run(cls, run: RecurringRun) -> Self:
        """Return the response for a run."""
        return cls.model_validate(
            {
                **{name: getattr(run, name) for name in cls.model_fields if hasattr(run, name)},
                "timezones": None if run.timezones is None else list(run.timezones),
                "next_attempt_at": run.due_at if run.state is RunState.PENDING else None,
            }
        )


class RecurringRunPage(ResponseModel):
    """Runs of a recurring notification, newest first."""

    items: list[RecurringRunResponse]
    next_cursor: str | None
