"""Sentences about the later steps of a notification for one user. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from tidings.model.waiting_step import StepCause, StepEnd, WaitingStep

#: what cancelled a step → what happened
STEP_END_TEXTS: Mapping[StepEnd, str] = {
    StepEnd.DELIVERED: "the message was delivered",
    StepEnd.SEEN: "the user saw the message",
    StepEnd.READ: "the user read the message",
    StepEnd.CLICKED: "the user followed a link of the message",
    StepEnd.EVENT: "the domain event that it waited for was published",
    StepEnd.NOTIFICATION_CANCELLED: "the notification was cancelled",
    StepEnd.SUPERSEDED: "a newer notification on the same subject was accepted",
    StepEnd.USER_ERASED: "the user was erased",
    StepEnd.LEFT_AUDIENCE: "the user had left the audience",
}
_CAUSE_TEXTS: Mapping[StepCause, str] = {
    StepCause.HANDED_OVER: "{seconds} s after the step before was handed over",
    StepCause.NOT_HANDED_OVER: "without a wait, because the step before reached nobody",
    StepCause.CANCELLED: "{seconds} s after the time of the step before, which was cancelled",
}


def build_step_sentences(steps: Sequence[WaitingStep]) -> Iterator[str]:
    """Yield a sentence about each later step of a user: what it waits for, why it started, what cancelled it."""
    for step in steps:
        name = f"Step {step.step}, counted from 0 ({', '.join(step.channels)}),"
        cause = "" if step.cause is None else f", {_CAUSE_TEXTS[step.cause].format(seconds=step.after_seconds)}"
        end = "" if step.ended_by is None else STEP_END_TEXTS[step.ended_by]
        if step.started_at is not None:
            yield f"{name} started at {_format_instant(step.started_at)}{cause}."
            if step.ended_at is not None:
                yield f"What was unsent of it was cancelled at {_format_instant(step.ended_at)}: {end}."
        elif step.ended_at is not None:
            yield f"{name} was cancelled at {_format_instant(step.ended_at)}: {end}."
        elif step.due_at is not None:
            yield f"{name} starts at {_format_instant(step.due_at)}{cause}{_format_condition(step)}."
        else:
            wait = f"{step.after_seconds} s after the step before was handed over"
            yield f"{name} starts {wait}{_format_condition(step)}."


def _format_condition(step: WaitingStep) -> str:
    if step.unless is None:
        return ""
    return f", unless the event {step.event} is published" if step.event else f", unless the message was {step.unless}"


def _format_instant(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
