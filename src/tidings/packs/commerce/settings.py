"""The settings of the commerce pack, `TIDINGS_COMMERCE__…`."""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from tidings.config.plugin_settings import load_plugin_settings


class CommerceSettings(BaseModel):
    """Settings of the commerce pack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: seconds between a failed payment and the message about it; a capture in this time cancels the message
    payment_grace: float = Field(120, ge=0, le=86_400)

    @property
    def grace(self) -> timedelta:
        """`payment_grace` as a duration."""
        return timedelta(seconds=self.payment_grace)


def load_settings() -> CommerceSettings:
    """Return the settings. Raises ConfigError naming the variable and the fix."""
    return load_plugin_settings(CommerceSettings, "TIDINGS_COMMERCE__")
