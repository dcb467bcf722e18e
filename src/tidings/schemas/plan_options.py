"""Steps, digest, throttle and selection of channels of a notification, as callers and templates give them. Pure."""

from typing import Annotated, Final, Literal, Self, TypedDict, get_args

from pydantic import Field, field_validator, model_validator

from tidings.model.plan_options import ChannelSelection, DigestOptions, DomainEvent, Step, ThrottleOptions
from tidings.schemas.json_body import RequestModel

#: longest wait of a step, and longest window, in seconds: push services keep a message for 28 days
MAX_WAIT_SECONDS = 28 * 86_400
MAX_STEPS = 10
MAX_DIGEST_ITEMS = 1_000
MAX_THROTTLE = 10_000

ChannelNames = Annotated[list[str], Field(max_length=20)]
#: what a user or a provider reports
Condition = Literal["delivered", "seen", "read", "clicked"]
_CONDITIONS: Final = get_args(Condition)
#: minijinja expression over the variables, such as `eventId`
Expression = Annotated[str, Field(max_length=500)]
#: `08:00`, or `MON 08:00`
ClockTime = Annotated[str, Field(pattern=r"^((MON|TUE|WED|THU|FRI|SAT|SUN) )?([01]\d|2[0-3]):[0-5]\d$")]


class DomainEventBody(RequestModel):
    """A domain event of the host that ends a wait."""

    event: str = Field(min_length=1, max_length=200)


class StepBody(RequestModel):
    """Channels that are used together, after a wait, unless something happened."""

    channels: ChannelNames = Field(min_length=1)
    after_seconds: int = Field(0, ge=0, le=MAX_WAIT_SECONDS, description="from the hand-over of the step before")
    unless: Condition | DomainEventBody | None = Field(None, description="what cancels the step; default: nothing")

    @field_validator("unless", mode="before")
    @classmethod
    def _name_forms(cls, value: object) -> object:
        """Refuse what is neither form with one message that names both."""
        if isinstance(value, str) and value not in _CONDITIONS:
            raise ValueError(
                f'must be one of {", ".join(_CONDITIONS)}, or {{"event": "{value[:50]}"}} for a domain event'
            )
        return value

    def to_step(self) -> Step:
        """Return the step of the model."""
        unless = DomainEvent(self.unless.event) if isinstance(self.unless, DomainEventBody) else self.unless
        return Step(tuple(dict.fromkeys(self.channels)), self.after_seconds, unless)


class DigestBody(RequestModel):
    """How notifications of one key are collected for a user and closed into one message."""

    key: Expression = Field("", description="expression over the variables; empty: one digest per user")
    window_seconds: int | None = Field(None, ge=1, le=MAX_WAIT_SECONDS, description="from the first notification")
    sliding: bool = Field(False, description="each further notification extends the window, up to maxSeconds")
    max_seconds: int | None = Field(None, ge=1, le=MAX_WAIT_SECONDS, description="needed with sliding; else unused")
    max_items: int | None = Field(None, ge=1, le=MAX_DIGEST_ITEMS, description="closes early with so many")
    first_at_once: bool = Field(False, description="the first is sent at once and not repeated in the digest")
    at: ClockTime | None = Field(
        None, description="08:00 or MON 08:00 in the user's time zone, instead of windowSeconds"
    )
    catch_up_seconds: int | None = Field(
        None,
        ge=1,
        le=MAX_WAIT_SECONDS,
        description="with at: what is overdue for longer is left out; default: one period, a day or a week",
    )
    channels: ChannelNames = Field(
        default_factory=list, description="those that are collected; empty: all. The others are sent at once"
    )

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        if (fault := self.to_options().find_error()) is not None:
            raise ValueError(fault)
        return self

    def to_options(self) -> DigestOptions:
        """Return the options of the model."""
        return DigestOptions(**(self.model_dump() | {"channels": tuple(dict.fromkeys(self.channels))}))


class ThrottleBody(RequestModel):
    """How many notifications of one key a user receives in a window."""

    limit: int = Field(ge=1, le=MAX_THROTTLE)
    window_seconds: int = Field(ge=1, le=MAX_WAIT_SECONDS)
    key: Expression = Field("", description="expression over the variables; empty: one count per user and template")
    instead: Literal["skip", "digest"] = Field("skip", description="what happens to the excess")

    def to_options(self) -> ThrottleOptions:
        """Return the options of the model."""
        return ThrottleOptions(**self.model_dump())


class PlanRequestFields(TypedDict):
    """The fields of a `NotifyRequest` that say when and how often."""

    steps: tuple[Step, ...] | None
    digest: DigestOptions | Literal[False] | None
    throttle: ThrottleOptions | Literal[False] | None
    channel_selection: ChannelSelection | None


class PlanOptionsBody(RequestModel):
    """Steps, digest, throttle and selection of channels. Defaults come from the template."""

    steps: list[StepBody] | None = Field(
        None, max_length=MAX_STEPS, description="which channels when; default: those of the template; [] = all at once"
    )
    digest: DigestBody | Literal[False] | None = Field(
        None, description="collect notifications into one message; default: that of the template; false = none"
    )
    throttle: ThrottleBody | Literal[False] | None = Field(
        None, description="limit per user and key; default: that of the template; false = none"
    )
    channel_selection: ChannelSelection | None = Field(
        None,
        description="mostEngaged: of the channels that reach a user, in each step the one on which they were most "
        "engaged in 30 days, else the first; default: that of the template, all",
    )

    def to_request_fields(self) -> PlanRequestFields:
        """Return the fields of a `NotifyRequest`."""
        return {
            "steps": None if self.steps is None else tuple(step.to_step() for step in self.steps),
            "digest": self.digest.to_options() if isinstance(self.digest, DigestBody) else self.digest,
            "throttle": self.throttle.to_options() if isinstance(self.throttle, ThrottleBody) else self.throttle,
            "channel_selection": self.channel_selection,
        }
