"""Which notifications a domain event causes. Pure: triggers and the evaluation of expressions are arguments."""

from collections.abc import Mapping, Sequence

from tidings.errors import ValidationFailed
from tidings.model.audience import from_json
from tidings.model.request import NotifyRequest
from tidings.model.subject import SubjectRequest
from tidings.model.trigger import EXPRESSION_MARK, DomainEvent, Trigger
from tidings.ports.renderer import Evaluator


def find_user_id(event: DomainEvent) -> str | None:
    """Return the user whom an event is about, as its `data` names them."""
    user_id = event.data.get("userId") if isinstance(event.data, Mapping) else None
    return user_id if isinstance(user_id, str) else None


def build_requests(event: DomainEvent, triggers: Sequence[Trigger], evaluator: Evaluator) -> list[NotifyRequest]:
    """Return the notifications that the event causes, in the order of its triggers.

    triggers: those of the event's type. Raises ValidationFailed naming the expression that cannot be evaluated, such as
    one that reads a field that `data` has not.
    """
    context: Mapping[str, object] = {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "data": event.data,
    }
    return [
        _build_request(event, trigger, evaluator, context)
        for trigger in triggers
        if trigger.condition is None or evaluator.evaluate(trigger.condition, context)
    ]


def _build_request(
    event: DomainEvent, trigger: Trigger, evaluator: Evaluator, context: Mapping[str, object]
) -> NotifyRequest:
    subject = None
    if trigger.subject is not None:
        subject = SubjectRequest(_to_text(trigger.subject, evaluator, context), trigger.subject_version)
    return NotifyRequest(
        template_code=trigger.template,
        audience=from_json(_fill(trigger.audience, evaluator, context)),
        variables={name: evaluator.evaluate(source, context) for name, source in trigger.variables.items()},
        priority=trigger.priority,
        source=f"{event.type} {event.id}"[:200],
        subject=subject,
    )


def _fill(value: object, evaluator: Evaluator, context: Mapping[str, object]) -> object:
    """Return a part of an audience with its expressions evaluated."""
    if isinstance(value, str) and value.startswith(EXPRESSION_MARK):
        return evaluator.evaluate(value.removeprefix(EXPRESSION_MARK), context)
    if isinstance(value, Mapping):
        return {name: _fill(part, evaluator, context) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(part, evaluator, context) for part in value]
    return value


def _to_text(expression: str, evaluator: Evaluator, context: Mapping[str, object]) -> str:
    value = evaluator.evaluate(expression, context)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValidationFailed.for_field("data", f"{expression} must give a text, not {type(value).__name__}")
    return str(value)
