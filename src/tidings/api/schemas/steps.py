"""Response model of the later steps of a notification."""

from datetime import datetime
from typing import Self

from tidings.model.waiting_step import WaitingStep
from tidings.schemas.response_models import ResponseModel


class StepResponse(ResponseModel):
    """One later step of a notification for one user."""

    user_id: str
    #: position in the notification's steps; the first step, 0, does not wait
    step: int
    channels: list[str]
    after_seconds: int
    #: what cancels it: `delivered`, `seen`, `read`, `clicked` or `event`; null = nothing
    unless: str | None
    #: type of the domain event
    event: str | None
    #: `waiting`, `started` or `cancelled`; a step that was started may be cancelled before all of it is sent
    state: str
    #: null while its clock has not started, and once it does not wait any more
    due_at: datetime | None
    #: why its clock started: `handed_over`, `not_handed_over` or `cancelled`, each of the step before
    cause: str | None
    started_at: datetime | None
    ended_at: datetime | None
    #: what cancelled it
    ended_by: str | None

    @classmethod
    def from_step(cls, step: WaitingStep) -> Self:
        """Return the response for a step."""
        state = "cancelled" if step.ended_at is not None else "waiting" if step.is_waiting else "started"
        fields = {name: getattr(step, name) for name in cls.model_fields if name != "state"}
        return cls.model_validate({**fields, "channels": list(step.channels), "state": state})
