"""The declaration of the webhook channel."""

from collections.abc import Sequence

from tidings.channels.http.check_responses import read_endpoint_response
from tidings.channels.http.origin import check_url, parse_trusted_hosts
from tidings.channels.plugin import ChannelContext, CheckContext
from tidings.channels.webhook.channel import WebhookChannel
from tidings.channels.webhook.response_policy import DEFAULT_RETRY_POLICY, DISABLE_AFTER
from tidings.channels.webhook.settings import (
    PREFIX,
    WebhookSettings,
    create_webhook_channel,
    probe_events_endpoint,
)
from tidings.channels.webhook.signing import generate_secret
from tidings.config.plugin_settings import load_plugin_settings
from tidings.config.settings import Settings
from tidings.errors import ConfigError, ValidationFailed
from tidings.model.channel import ChannelTraits
from tidings.model.check import CheckResult


class WebhookPlugin:
    """Implements `tidings.channels.plugin.ChannelPlugin`."""

    traits = ChannelTraits(
        "webhook endpoint",
        max_attempts=DEFAULT_RETRY_POLICY.max_attempts,
        setting=f"{PREFIX}ENABLED",
        disable_after=DISABLE_AFTER,
    )

    def is_configured(self, settings: Settings) -> bool:
        """Return whether webhooks are enabled. Raises ConfigError naming the setting and the fix."""
        return load_webhook_settings(settings).enabled

    def parse_address(self, address: str, settings: Settings) -> str:
        """Return the URL of an endpoint. Raises ValueError with what it must be."""
        trusted_hosts = parse_trusted_hosts(load_webhook_settings(settings).trusted_hosts, f"{PREFIX}TRUSTED_HOSTS")
        try:
            check_url(address, "address", trusted_hosts)
        except ValidationFailed as error:
            raise ValueError(error.field_errors[0].message) from None
        return address

    async def check(self, context: CheckContext) -> Sequence[CheckResult]:
        """Reach the endpoint of status events, without sending one. Raises ConfigError."""
        exchange = await probe_events_endpoint(load_webhook_settings(context.settings))
        return [] if exchange is None else [read_endpoint_response("status events", exchange, f"{PREFIX}EVENTS_URL")]

    def create_secrets(self) -> tuple[str, ...]:
        """Return the signing secret of a new endpoint."""
        return (generate_secret(),)

    def create(self, context: ChannelContext) -> WebhookChannel:
        """Return the channel, not opened yet. Raises ConfigError naming the setting and the fix."""
        channel = create_webhook_channel(load_webhook_settings(context.settings), context.clock)
        if channel is None:
            raise ConfigError(f"{PREFIX}ENABLED", "is false; set it to true")
        return channel


def load_webhook_settings(settings: Settings) -> WebhookSettings:
    """Return the settings of the webhook channel. Raises ConfigError."""
    return load_plugin_settings(WebhookSettings, PREFIX, values=settings.channel_values)
