"""The settings of the e-mail channel: `TIDINGS_EMAIL__…`, with short names for the relays and the sender."""

import re
from collections.abc import Sequence
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from tidings.config.plugin_settings import load_plugin_settings
from tidings.config.settings import Settings
from tidings.errors import ConfigError

PREFIX: Final = "TIDINGS_EMAIL__"
#: the short form of `TIDINGS_EMAIL__SMTP_URLS`
SHORT_NAME: Final = "TIDINGS_SMTP_URL"
#: the short form of `TIDINGS_EMAIL__SENDER`
SENDER_NAME: Final = "TIDINGS_EMAIL_FROM"
_ADDRESS: Final = re.compile(r"[^\s@<>\"(),:;\\\[\]]{1,64}@[^\s@<>\"(),:;\\\[\]]{1,253}")
_COLOUR: Final = re.compile(r"#[0-9a-fA-F]{6}")


def _split_urls(value: object) -> object:
    """Split `a b` or `a, b` into a tuple. A password contains neither, because it is percent-encoded."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    return tuple(part for text in texts for part in re.split(r"[,\s]+", str(text)) if part)


class EmailSettings(BaseModel):
    """How e-mail is sent, and how it looks. The channel exists when `smtp_urls` and `sender` are set."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    #: relays in the order of preference, `smtp://user:password@host:587` or `smtps://…`, separated by blanks or commas
    smtp_urls: Annotated[tuple[str, ...], BeforeValidator(_split_urls)] = Field((), repr=False)
    #: address of the sender: `news@shop.example` or `Shop <news@shop.example>`
    sender: str = ""
    #: address for answers; empty = the sender
    reply_to: str = ""
    #: address for bounces (MAIL FROM); empty = the sender
    bounce_address: str = ""
    #: host name in EHLO; empty = the sender's domain
    hostname: str = ""
    #: connections per relay and process
    connections: int = Field(10, ge=1, le=500)
    #: messages per connection
    messages_per_connection: int = Field(100, ge=1, le=100_000)
    #: categories whose messages go to the next relay although the first may have taken them, such as one-time passwords
    duplicate_ok: tuple[str, ...] = ()
    #: name of the product in the layout; empty = the sender's name, or its domain
    brand_name: str = Field("", max_length=80)
    #: colour of buttons, `#rrggbb`
    brand_color: str = "#2f5bea"
    #: https URL of a logo, shown 40 pixels high; empty = the name as text
    logo_url: str = ""
    #: postal address at the end of each message; many countries require it
    postal_address: str = Field("", max_length=300)
    #: base URL of unsubscribe links; empty = the server's own URL
    public_url: str = ""
    #: secret of the hooks `generic`, `postmark` and `dsn`; unset = they are off
    hook_secret: SecretStr | None = Field(None, min_length=16, repr=False)
    #: Mailgun's HTTP webhook signing key; unset = the hook `mailgun` is off
    mailgun_signing_key: SecretStr | None = Field(None, repr=False)
    #: ARNs of the SNS topics to which Amazon SES publishes; empty = the hook `ses` is off
    ses_topics: tuple[str, ...] = ()
    #: bounces in a row, for causes that pass, that suppress an address
    soft_bounces: int = Field(5, ge=1, le=100)
    #: days within which they count
    soft_bounce_days: int = Field(14, ge=1, le=365)
    #: days for which the address is suppressed
    soft_bounce_pause_days: int = Field(7, ge=1, le=365)
    #: hours without any event of a provider, while messages are sent, after which an operator is told
    max_silence_hours: float = Field(24.0, gt=0)
    #: PEM file of an RSA key that signs messages (DKIM); unset = the relay signs
    dkim_key_file: Path | None = None
    #: DKIM selector: the public key is in the TXT record `<selector>._domainkey.<domain>`
    dkim_selector: str = "tidings"

    #: codes of the categories whose e-mails report opens, separated by commas; empty = none
    track_opens: tuple[str, ...] = ()
    #: codes of the categories whose e-mails report clicks, separated by commas; empty = none
    track_clicks: tuple[str, ...] = ()

    @property
    def is_configured(self) -> bool:
        """Whether there are relays. Raises ConfigError if there is no sender for them."""
        if self.smtp_urls and not self.sender:
            raise ConfigError(
                SENDER_NAME,
                f"is not set, but {SHORT_NAME} is; set it to an address that the relay accepts, such as "
                "Shop <news@shop.example>",
            )
        return bool(self.smtp_urls)

    @property
    def sender_name(self) -> str:
        """The sender's name, empty if only an address is set."""
        return parseaddr(self.sender)[0]

    @property
    def sender_address(self) -> str:
        """The sender's address."""
        return parseaddr(self.sender)[1]

    @property
    def brand(self) -> str:
        """The name of the product in messages."""
        return self.brand_name or self.sender_name or self.sender_address.rpartition("@")[2]

    @field_validator("sender", "reply_to", "bounce_address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        if value and not (_ADDRESS.fullmatch(parseaddr(value)[1]) and value.isprintable()):
            raise ValueError(f"{value!r} is not an address; an example is Shop <news@shop.example>")
        return value

    @field_validator("hostname", "dkim_selector")
    @classmethod
    def _check_hostname(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9.\[\]:_-]{0,253}", value):
            raise ValueError(f"{value!r} is not a host name")
        return value

    @field_validator("brand_color")
    @classmethod
    def _check_color(cls, value: str) -> str:
        if not _COLOUR.fullmatch(value):
            raise ValueError(f"{value!r} is not a colour; an example is #2f5bea")
        return value.lower()

    @field_validator("logo_url", "public_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (
            parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[!-~]+", value)
        ):
            raise ValueError(f"{value!r} is not an absolute http(s) URL")
        return value

    @field_validator("smtp_urls")
    @classmethod
    def _check_relays(cls, value: Sequence[str]) -> Sequence[str]:
        for number, url in enumerate(value, 1):
            if not url.startswith(("smtp://", "smtps://")):
                # the URL may contain a password
                raise ValueError(
                    f"relay {number} must begin with smtp:// or smtps://; an example is "
                    "smtp://user:password@mail.example.com:587"
                )
        return value

    @field_validator("dkim_key_file")
    @classmethod
    def _check_key_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"{value} does not exist; must be the path of a PEM file")
        return value


def load_email_settings(settings: Settings) -> EmailSettings:
    """Return the settings of the e-mail channel. Raises ConfigError."""
    return load_plugin_settings(
        EmailSettings,
        PREFIX,
        aliases={SHORT_NAME: "smtp_urls", SENDER_NAME: "sender"},
        values=settings.channel_values,
    )
