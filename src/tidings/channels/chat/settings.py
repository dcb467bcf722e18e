"""The settings of the chat channel (`TIDINGS_CHAT__…`), and the channel that they describe."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tidings.channels.chat.channel import ChatChannel
from tidings.channels.http.origin import check_url, parse_trusted_hosts
from tidings.channels.http.transport import HttpTransport, TransportLimits
from tidings.errors import ConfigError, ValidationFailed
from tidings.ports.clock import Clock

PREFIX = "TIDINGS_CHAT__"


class ChatSettings(BaseModel):
    """Settings of the chat channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: send notifications to chats; needs the extra `chat`
    enabled: bool = False
    #: own servers, `host[:port]`, that may use plain http and private addresses, and may be hosts of Teams workflows
    trusted_hosts: tuple[str, ...] = ()
    #: PEM file with an additional CA
    ca_file: Path | None = None
    #: seconds until a service must have answered
    timeout: float = Field(10.0, gt=0, le=15)
    #: base URLs, for proxies and own servers, such as a Bot API server of Telegram
    slack_url: str = "https://slack.com"
    slack_hooks_url: str = "https://hooks.slack.com"
    discord_url: str = "https://discord.com"
    telegram_url: str = "https://api.telegram.org"


def create_chat_channel(
    settings: ChatSettings,
    clock: Clock,
    *,
    jitter: Callable[[], float] = random.random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> ChatChannel | None:
    """Return the channel, None if it is disabled. Raises ConfigError naming the setting."""
    if not settings.enabled:
        return None
    trusted_hosts = parse_trusted_hosts(settings.trusted_hosts, f"{PREFIX}TRUSTED_HOSTS")
    base_urls = {name: getattr(settings, f"{name}_url") for name in ("slack", "slack_hooks", "discord", "telegram")}
    for name, url in base_urls.items():
        try:
            check_url(url, "url", trusted_hosts)
        except ValidationFailed as error:
            message = f"{error.field_errors[0].message}; hosts in {PREFIX}TRUSTED_HOSTS may use http"
            raise ConfigError(f"{PREFIX}{name.upper()}_URL", message) from error
    transport = HttpTransport(
        ca_pem=_read_ca_file(settings.ca_file),
        ca_setting=f"{PREFIX}CA_FILE",
        limits=TransportLimits(connect_timeout=min(5.0, settings.timeout), total_timeout=settings.timeout),
    )
    return ChatChannel(
        transport,
        clock,
        base_urls,
        trusted_hosts=trusted_hosts,
        trusted_teams_hosts=frozenset(settings.trusted_hosts),
        jitter=jitter,
        sleep=sleep,
    )


def _read_ca_file(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{PREFIX}CA_FILE", f"cannot read {path}: {error.strerror}") from error
