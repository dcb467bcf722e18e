"""A parsed job of another service: template, variables, options and recipients. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tidings.errors import FieldError, ValidationFailed
from tidings.model.audience import users
from tidings.model.request import NotifyRequest
from tidings.model.user import ContactAddress
from tidings.schemas.notification_request import NotifyOptions, build_notify_request

#: notification priorities for BullMQ's job priorities 1, 2, 3, 4; greater ones are low, 0 (none) uses the template's
_PRIORITIES = ("urgent", "high", "normal", "low")


@dataclass(frozen=True, slots=True)
class FailedRecipient:
    """A recipient of a job who cannot be notified, and the reason."""

    #: as given in the job
    user_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One valid job. The template and the users are not looked up yet."""

    template_code: str
    variables: Mapping[str, object]
    options: NotifyOptions
    #: distinct user ids, or an address that must belong to exactly one user
    recipients: tuple[str, ...] | ContactAddress
    #: malformed user ids
    failed_recipients: tuple[FailedRecipient, ...] = ()
    #: whether it lists several users, and its result is per user
    is_batch: bool = False
    #: camelCase names of the options that were given at the top level instead of in `options`
    top_level_options: frozenset[str] = frozenset()

    def to_notify_request(self, user_ids: Sequence[str], now: datetime, source: str) -> NotifyRequest:
        """Return the request to notify these users. Raises ValidationFailed with the job's field names."""
        try:
            return build_notify_request(
                self.template_code, users(*user_ids), self.variables, self.options, now, source=source[:300]
            )
        except ValidationFailed as error:
            raise self.with_caller_field_names(error) from error

    def with_caller_field_names(self, error: ValidationFailed) -> ValidationFailed:
        """Return the error with the job's field names, such as `priority` instead of `options.priority`."""
        errors = [FieldError(self._caller_field_name(each.field), each.message) for each in error.field_errors]
        return error if errors == list(error.field_errors) else ValidationFailed.from_errors(errors, code=error.code)

    def _caller_field_name(self, field: str) -> str:
        if field.startswith(("userIds", "audience")):
            return "userIds" if self.is_batch else "to" if isinstance(self.recipients, ContactAddress) else "userId"
        option = field.removeprefix("options.")
        name = option.partition("[")[0]
        return option if option != field and name in self.top_level_options else field


def with_priority(options: NotifyOptions, job_priority: int) -> NotifyOptions:
    """Return the options with the priority of the BullMQ job, unless they have one. job_priority: 0 = none."""
    if options.priority is not None or job_priority < 1:
        return options
    return options.model_copy(update={"priority": _PRIORITIES[min(job_priority, len(_PRIORITIES)) - 1]})
