"""Response model of `explain`, for the route and for `tidings explain --json`."""

from datetime import datetime

from pydantic import JsonValue

from tidings.api.schemas.digests import CollectedResponse, list_collected_responses
from tidings.api.schemas.notifications import DeliveryResponse, SkipResponse
from tidings.api.schemas.steps import StepResponse
from tidings.observability.channel_decisions import ChannelDecision
from tidings.observability.explain import Explanation
from tidings.schemas.response_models import ResponseModel


class CategoryRule(ResponseModel):
    """The notification's category and the user's choices for it on single channels."""

    code: str
    #: on all channels
    mandatory: bool
    opt_in: bool
    #: per channel, without those for one object
    choices: dict[str, bool]


class ConsentResponse(ResponseModel):
    """What the preferences say now: the entry that decides, and those it beats, the strongest first."""

    enabled: bool
    entry: dict[str, JsonValue]
    beaten: list[dict[str, JsonValue]]


class ChannelDecisionResponse(ResponseModel):
    """What was decided for a contact point of a channel, or for the channel as a whole."""

    channel: str
    #: sent, waiting, held, skipped, failed or undecided
    decision: str
    delivery_id: str | None
    #: the rule that skipped or holds it
    rule: str | None
    #: of a skip
    reason: str | None
    #: the recorded inputs of the rule
    inputs: dict[str, JsonValue]
    #: nothing is sent before this
    until: datetime | None
    #: null if the pack that declared the category is not installed
    preference: ConsentResponse | None


class ExplanationResponse(ResponseModel):
    """The verdict, as sentences, and the recorded facts behind it."""

    user_id: str
    notification_id: str
    #: the cause of the notification: `recurring:` and a name, `event:`, `api` …
    source: str | None
    verdict: str
    sentences: list[str]
    channels: list[ChannelDecisionResponse]
    category: CategoryRule | None
    deliveries: list[DeliveryResponse]
    skips: list[SkipResponse]
    #: the later steps of the notification for the user
    steps: list[StepResponse]
    #: the digest that collected it, or null
    collected: CollectedResponse | None
    #: the audience as of now, with true or false at each leaf
    audience: dict[str, JsonValue]


def explanation_response(explanation: Explanation) -> ExplanationResponse:
    """Return the response for an explanation."""
    facts = explanation.facts
    category = facts.category
    collected = () if facts.digests.collected is None else (facts.digests.collected,)
    return ExplanationResponse.model_validate(
        {
            "userId": facts.user_id,
            "notificationId": facts.notification.id,
            "source": facts.notification.source,
            "verdict": str(explanation.verdict),
            "sentences": list(explanation.sentences),
            "channels": [_describe_channel(decision) for decision in explanation.decisions],
            "category": category
            and {
                "code": category.code,
                "mandatory": category.is_mandatory_everywhere,
                "optIn": category.opt_in,
                "choices": {
                    entry.channel: entry.enabled
                    for entry in facts.preferences
                    if entry.category == category.code and entry.channel and not entry.subject
                },
            },
            "deliveries": facts.deliveries,
            "skips": facts.skips,
            "steps": [StepResponse.from_step(step) for step in facts.steps],
            "collected": next(iter(list_collected_responses(collected)), None),
            "audience": facts.membership.to_json(),
        }
    )


def _describe_channel(decision: ChannelDecision) -> dict[str, object]:
    consent = decision.consent
    return {
        "channel": decision.channel,
        "decision": decision.outcome.value,
        "deliveryId": decision.delivery_id,
        "rule": decision.rule,
        "reason": decision.reason,
        "inputs": dict(decision.inputs),
        "until": decision.until,
        "preference": None if consent is None else {"enabled": consent.is_granted, **consent.to_json()},
    }
