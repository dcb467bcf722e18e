"""Response model of `explain`, for the route and for `tidings explain --json`."""

from pydantic import JsonValue

from tidings.api.schemas.notifications import DeliveryResponse, SkipResponse
from tidings.api.schemas.steps import StepResponse
from tidings.observability.explain import Explanation
from tidings.schemas.response_models import ResponseModel


class CategoryRule(ResponseModel):
    """The notification's category and the user's preferences in it."""

    code: str
    mandatory: bool
    opt_in: bool
    #: the user's preferences, per channel
    choices: dict[str, bool]


class ExplanationResponse(ResponseModel):
    """The verdict, as sentences, and the recorded facts behind it."""

    user_id: str
    notification_id: str
    verdict: str
    sentences: list[str]
    category: CategoryRule | None
    deliveries: list[DeliveryResponse]
    skips: list[SkipResponse]
    #: the later steps of the notification for the user
    steps: list[StepResponse]
    #: the audience as of now, with true or false at each leaf
    audience: dict[str, JsonValue]


def explanation_response(explanation: Explanation) -> ExplanationResponse:
    """Return the response for an explanation."""
    facts = explanation.facts
    category = facts.category
    return ExplanationResponse.model_validate(
        {
            "userId": facts.user_id,
            "notificationId": facts.notification.id,
            "verdict": str(explanation.verdict),
            "sentences": list(explanation.sentences),
            "category": category
            and {
                "code": category.code,
                "mandatory": category.mandatory,
                "optIn": category.opt_in,
                "choices": {preference.channel: preference.enabled for preference in facts.preferences},
            },
            "deliveries": facts.deliveries,
            "skips": facts.skips,
            "steps": [StepResponse.from_step(step) for step in facts.steps],
            "audience": facts.membership.to_json(),
        }
    )
