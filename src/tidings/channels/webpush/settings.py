"""The settings of Web Push: `TIDINGS_WEBPUSH__…`, and the short forms that Tidings had first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, field_validator

from tidings.config.plugin_settings import list_plugin_settings, load_plugin_settings
from tidings.config.settings import Settings, SettingSource

PREFIX: Final = "TIDINGS_WEBPUSH__"
#: short form → field
SHORT_NAMES: Final = {
    "TIDINGS_VAPID_SUBJECT": "subject",
    "TIDINGS_PUSH_EXTRA_HOSTS": "extra_hosts",
    "TIDINGS_PUSH_CA_FILE": "ca_file",
}
#: VAPID subject if no contact is configured
FALLBACK_SUBJECT: Final = "https://tidings.example"


class WebPushSettings(BaseModel):
    """Settings of the Web Push channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: contact for push services (`mailto:` or `https:`, RFC 8292 §2.1); default: the frontend's origin if it is public
    subject: str = FALLBACK_SUBJECT
    #: additional push hosts, `host[:port]`; only these may use plain http or loopback
    extra_hosts: tuple[str, ...] = ()
    #: PEM file with an additional CA for these hosts
    ca_file: Path | None = None
    #: codes of the categories whose pushes report that they were shown, separated by commas; empty = none
    track_shown: tuple[str, ...] = ()
    #: codes of the categories whose pushes report that they were clicked or closed, separated by commas; empty = none
    track_clicks: tuple[str, ...] = ()

    @field_validator("subject")
    @classmethod
    def _check_subject(cls, value: str) -> str:
        parts = urlsplit(value)
        host = parts.path.rpartition("@")[2] if parts.scheme == "mailto" else parts.hostname or ""
        if (
            parts.scheme not in ("mailto", "https")
            or any(character in value for character in "<> ")
            or "." not in host
            or host.endswith((".invalid", ".localhost"))
        ):
            # Apple's push service rejects these with 403 BadJwtToken, for every device
            raise ValueError(f"{value!r} is not a contact; must be mailto:ops@your-domain or https://your-domain")
        return value

    @field_validator("extra_hosts")
    @classmethod
    def _check_extra_hosts(cls, value: Sequence[str]) -> Sequence[str]:
        for host in value:
            parts = urlsplit(f"//{host}")
            if "/" in host or "@" in host or not parts.hostname or (parts.port or 1) < 1:
                raise ValueError(f"{host!r} is not host[:port]; an example is push.internal:8443,127.0.0.1:9000")
        return value

    @field_validator("ca_file")
    @classmethod
    def _check_ca_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"{value} does not exist; must be the path of a PEM file")
        return value


def load_webpush_settings(settings: Settings) -> WebPushSettings:
    """Return the settings of the channel. Raises ConfigError naming the setting and the fix."""
    loaded = load_plugin_settings(WebPushSettings, PREFIX, aliases=SHORT_NAMES, values=settings.channel_values)
    if "subject" in loaded.model_fields_set:
        return loaded
    return loaded.model_copy(update={"subject": _default_subject(settings.frontend_url)})


def list_webpush_settings(settings: Settings) -> Sequence[SettingSource]:
    """Return the settings with their values and sources. Raises ConfigError."""
    return list_plugin_settings(
        load_webpush_settings(settings), PREFIX, aliases=SHORT_NAMES, values=settings.channel_values
    )


def _default_subject(frontend_url: str) -> str:
    """Return the origin of the frontend if it is public, else `FALLBACK_SUBJECT` (startup logs a warning)."""
    parts = urlsplit(frontend_url)
    host = parts.hostname or ""
    is_domain = parts.scheme == "https" and "." in host and not host[-1].isdigit()
    return f"https://{host}" if is_domain and not host.endswith((".invalid", ".localhost")) else FALLBACK_SUBJECT
