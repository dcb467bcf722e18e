"""Which dead letters an operator means, and what is to become of them: the request bodies."""

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from tidings.edge.bodies import Body
from tidings.edge.fields import Instant
from tidings.errors import Invalid
from tidings.model.ids import is_id
from tidings.ports.operations import DeadLetterFilter

#: deliveries per second, unless somebody says how many
RATE: Final = 100.0
SLOWEST, FASTEST = 0.1, 10_000.0
#: dead letters in one request
LIMIT, MOST = 1_000, 10_000

_EVERYTHING = DeadLetterFilter()


def clean(text: str | None) -> str | None:
    """Return a text to look for. Raises ValueError for the character NUL, which no stored text contains."""
    if text is not None and "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


def dead_letter_id(text: str) -> str:
    """Return an id that can be one of a dead letter."""
    if not is_id(text):
        raise ValueError("must be the id of a dead letter, as GET /api/dead-letters shows it")
    return text


Word = Annotated[str, Field(min_length=1, max_length=300)]
Id = Annotated[str, Field(min_length=1, max_length=100)]
DeadLetterId = Annotated[str, AfterValidator(dead_letter_id)]


class Chosen(Body):
    """Which dead letters: all that fit everything that is said."""

    #: of the dead letters themselves
    ids: Annotated[list[DeadLetterId], Field(min_length=1, max_length=1_000)] | None = None
    #: as shown, or what it says before a colon
    error: Annotated[str, Field(max_length=300)] | None = None
    notification_id: Id | None = None
    template_code: Word | None = None
    channel: Word | None = None
    user_id: Word | None = None
    #: died at this instant or later
    since: Instant | None = None
    #: died before this instant
    until: Instant | None = None
    #: every dead letter, where nothing else is said
    all: bool = False
    #: say what would be done, and do nothing
    dry_run: bool = False
    limit: Annotated[int, Field(ge=1, le=MOST)] = LIMIT

    def which(self) -> DeadLetterFilter:
        """Return the filter. Raises Invalid where none is given and `all` does not say that every one is meant.

        To look does no harm: a dry run without a filter means every one.
        """
        found = DeadLetterFilter(
            ids=self.ids,
            error=self.error,
            notification_id=self.notification_id,
            template_code=self.template_code,
            channel=self.channel,
            user_id=self.user_id,
            since=self.since,
            until=self.until,
        )
        if found == _EVERYTHING and not (self.all or self.dry_run):
            raise Invalid.field("all", "must be true to mean every dead letter; or name a filter such as error")
        if found != _EVERYTHING and self.all:
            raise Invalid.field("all", "means every dead letter; leave it out where a filter is named")
        return found


class ReplayBody(Chosen):
    """What is to be sent again."""

    #: deliveries per second that come due
    rate_per_second: Annotated[float, Field(ge=SLOWEST, le=FASTEST)] = RATE


class DiscardBody(Chosen):
    """What is to be taken off the list."""
