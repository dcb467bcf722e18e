"""Request bodies that select dead letters to replay or discard."""

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from tidings.errors import ValidationFailed
from tidings.model.ids import is_id
from tidings.ports.operations import DeadLetterFilter
from tidings.schemas.field_types import Instant
from tidings.schemas.json_body import RequestModel

#: deliveries per second
DEFAULT_REPLAY_RATE: Final = 100.0
MIN_REPLAY_RATE, MAX_REPLAY_RATE = 0.1, 10_000.0
#: dead letters per request
DEFAULT_LIMIT, MAX_LIMIT = 1_000, 10_000

_MATCH_ALL = DeadLetterFilter()


def reject_nul(text: str | None) -> str | None:
    """Return a filter text. Raises ValueError for the character NUL, which no stored text contains."""
    if text is not None and "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


def check_dead_letter_id(text: str) -> str:
    """Return a well-formed dead-letter id. Raises ValueError."""
    if not is_id(text):
        raise ValueError("must be the id of a dead letter, as listed by GET /api/dead-letters")
    return text


FilterText = Annotated[str, Field(min_length=1, max_length=300)]
Id = Annotated[str, Field(min_length=1, max_length=100)]
DeadLetterId = Annotated[str, AfterValidator(check_dead_letter_id)]


class DeadLetterSelector(RequestModel):
    """Selects the dead letters that match all given filters."""

    #: ids of dead letters
    ids: Annotated[list[DeadLetterId], Field(min_length=1, max_length=1_000)] | None = None
    #: the error text, or its part before a colon
    error: Annotated[str, Field(max_length=300)] | None = None
    notification_id: Id | None = None
    template_code: FilterText | None = None
    channel: FilterText | None = None
    user_id: FilterText | None = None
    #: failed at this instant or later
    since: Instant | None = None
    #: failed before this instant
    until: Instant | None = None
    #: select every dead letter; excludes the filters
    all: bool = False
    #: only report what would be done
    dry_run: bool = False
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT

    def to_filter(self) -> DeadLetterFilter:
        """Return the filter.

        Raises ValidationFailed without a filter, unless `all` or `dry_run` is set: both then select every dead letter.
        """
        selected = DeadLetterFilter(
            ids=self.ids,
            error=self.error,
            notification_id=self.notification_id,
            template_code=self.template_code,
            channel=self.channel,
            user_id=self.user_id,
            since=self.since,
            until=self.until,
        )
        if selected == _MATCH_ALL and not (self.all or self.dry_run):
            raise ValidationFailed.for_field(
                "all", "must be true to select every dead letter; otherwise give a filter such as error"
            )
        if selected != _MATCH_ALL and self.all:
            raise ValidationFailed.for_field("all", "must not be combined with a filter")
        return selected


class ReplayBody(DeadLetterSelector):
    """Selects the dead letters to replay, and the rate."""

    #: replayed deliveries per second
    rate_per_second: Annotated[float, Field(ge=MIN_REPLAY_RATE, le=MAX_REPLAY_RATE)] = DEFAULT_REPLAY_RATE


class DiscardBody(DeadLetterSelector):
    """Selects the dead letters to discard."""
