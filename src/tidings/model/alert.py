"""Operator alerts: states in which a person must act, such as a push service that refuses this server's token."""

from datetime import datetime
from enum import StrEnum

import msgspec


class AlertName(StrEnum):
    """The kinds of alerts. docs/howto/operate.md explains each with its fix."""

    #: a push service refuses this server's VAPID token; the subject is the origin of the push service
    PUSH_TOKEN_REFUSED = "push_token_refused"  # noqa: S105  # a name, not a password
    #: a push service refuses requests for a cause on this server; the subject is the origin of the push service
    PUSH_MISCONFIGURED = "push_misconfigured"
    #: devices were suspended after repeated refusals; the subject is the host of the push service
    PUSH_DEVICES_SUSPENDED = "push_devices_suspended"
    #: a provider refuses the login, the sender, the account or this server; the subject is channel and provider
    PROVIDER_REFUSED = "provider_refused"
    #: a provider is taken out after failures; the subject is channel and provider
    PROVIDER_OUT = "provider_out"
    #: status events for the host product were given up; the subject is the host of their endpoint
    STATUS_EVENTS_LOST = "status_events_lost"
    #: a run of a recurring notification failed or was missed; the subject is its name, time and id
    RECURRING_RUN_LOST = "recurring_run_lost"
    #: attempts of a run of a recurring notification fail; the subject is its name, time and id
    RECURRING_RUN_FAILING = "recurring_run_failing"
    #: messages were refused because a daily cap is used up; the subject is channel and cap
    SPENDING_CAP_REACHED = "spending_cap_reached"
    #: messages were skipped because the installation reached its cap; the subject is the cap
    INSTALLATION_CAP_REACHED = "installation_cap_reached"
    #: this machine's clock differs from that of a push service; the subject names both
    CLOCK_OFF = "clock_off"
    #: calls of a provider's hook cannot be verified; the subject is channel and provider
    HOOK_REJECTED = "hook_rejected"
    #: a provider asks an operator to do something; the subject is channel and provider
    HOOK_NOTICE = "hook_notice"
    #: messages are sent, but no provider of the channel reports anything; the subject is the channel
    PROVIDER_SILENT = "provider_silent"
    #: a recipient's answer needs a person; the subject is the number that was answered
    REPLY_UNCLEAR = "reply_unclear"


class Alert(msgspec.Struct, frozen=True):
    """One alert, unique by name and subject."""

    name: AlertName
    #: what the alert is about, such as the origin of a push service
    subject: str
    #: the cause and the fix, for people
    detail: str
    #: when it was raised
    since: datetime
    #: when its cause was last observed
    seen_at: datetime
    #: when it ends by itself; None = when its cause is over
    ends_at: datetime | None = None

    @property
    def key(self) -> tuple[AlertName, str]:
        """What identifies the alert."""
        return self.name, self.subject
