"""What a job from outside asks for, checked: words, options, and whom to tell. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tidings.edge.notify_body import NotifyOptions, request_of
from tidings.errors import Fault, Invalid
from tidings.model.audience import users
from tidings.model.request import NotifyRequest
from tidings.model.user import Address

#: BullMQ's own priority of a job, 1 first → ours; greater ones are low, 0 (none) leaves it to the template
_PRIORITIES = ("urgent", "high", "normal", "low")


@dataclass(frozen=True, slots=True)
class NotTold:
    """One user of a job who is not told, and why."""

    #: as the job has it
    user_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One job. Whether the template and the users exist is not known yet."""

    template_code: str
    variables: Mapping[str, object]
    options: NotifyOptions
    #: ids, each once; or an address that exactly one user must have
    whom: tuple[str, ...] | Address
    #: ids that cannot be any user's
    wrong: tuple[NotTold, ...] = ()
    #: it named a list of users, and is answered per user
    many: bool = False
    #: options, in the caller's spelling, that stood beside the other fields and not in `options`
    beside: frozenset[str] = frozenset()

    def request(self, user_ids: Sequence[str], now: datetime, source: str) -> NotifyRequest:
        """Return the request to tell these users. Raises Invalid in the caller's words."""
        try:
            return request_of(
                self.template_code, users(*user_ids), self.variables, self.options, now, source=source[:300]
            )
        except Invalid as error:
            raise self.in_its_words(error) from error

    def in_its_words(self, error: Invalid) -> Invalid:
        """Give faults the names that the job has: `priority` instead of `options.priority`, `userId` of one user."""
        faults = [Fault(self._named(one.field), one.message) for one in error.faults]
        return error if faults == list(error.faults) else Invalid.of(faults, code=error.code)

    def _named(self, field: str) -> str:
        if field.startswith(("userIds", "audience")):
            return "userIds" if self.many else "to" if isinstance(self.whom, Address) else "userId"
        option = field.removeprefix("options.")
        name = option.partition("[")[0]
        return option if option != field and name in self.beside else field


def with_priority(options: NotifyOptions, of_job: int) -> NotifyOptions:
    """Return the options with the priority that BullMQ has of the job, where they name none."""
    if options.priority is not None or of_job < 1:
        return options
    return options.model_copy(update={"priority": _PRIORITIES[min(of_job, len(_PRIORITIES)) - 1]})
