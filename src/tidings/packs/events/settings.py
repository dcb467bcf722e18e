"""The settings of the events pack, `TIDINGS_EVENTS__…`."""

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tidings.config.plugin_settings import load_plugin_settings
from tidings.schemas.field_types import TimeZone


class EventsSettings(BaseModel):
    """Settings of the events pack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: hours before the start of an event, at which ticket holders are reminded of it; 0 = no reminders
    reminder_hours: float = Field(0, ge=0, le=336)

    #: zone of the venues of events that have none of their own; empty = the recipient's
    venue_timezone: TimeZone | Literal[""] = ""

    @property
    def reminder_before(self) -> timedelta:
        """`reminder_hours` as a duration."""
        return timedelta(hours=self.reminder_hours)


def load_settings() -> EventsSettings:
    """Return the settings. Raises ConfigError naming the variable and the fix."""
    return load_plugin_settings(EventsSettings, "TIDINGS_EVENTS__")
