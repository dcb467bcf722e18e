"""The declaration of the SMS channel."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tidings.channels.http.check_responses import read_credentials_response
from tidings.channels.plugin import ChannelContext, CheckContext
from tidings.channels.sms.channel import SmsChannel
from tidings.channels.sms.hooks import SmsHooks, list_senders
from tidings.channels.sms.lint import lint_text
from tidings.channels.sms.numbers import parse_number
from tidings.channels.sms.outcome_policy import DEFAULT_RETRY_POLICY
from tidings.channels.sms.settings import (
    PREFIX,
    SHORT_NAME,
    create_country_policy,
    create_sms_channel,
    list_provider_urls,
    load_sms_settings,
)
from tidings.config.settings import Settings
from tidings.errors import ConfigError, ValidationFailed
from tidings.model.channel import ChannelTraits
from tidings.model.check import CheckResult
from tidings.model.lint import LintFinding
from tidings.model.template import Category, RenderedMessage
from tidings.ports.clock import SystemClock


class SmsPlugin:
    """Implements `tidings.channels.plugin.ChannelPlugin`."""

    traits = ChannelTraits("phone number", max_attempts=DEFAULT_RETRY_POLICY.max_attempts, setting=SHORT_NAME)

    def is_configured(self, settings: Settings) -> bool:
        """Return whether a provider is configured. Raises ConfigError naming the setting and the fix."""
        own = load_sms_settings(settings)
        return own.url is not None or own.fallback_url is not None

    def parse_address(self, address: str, _settings: Settings) -> str:
        """Return a phone number in E.164. Raises ValueError with what it must be."""
        try:
            return parse_number(address).e164
        except ValidationFailed as error:
            raise ValueError(error.field_errors[0].message) from None

    def check_address(self, address: str, settings: Settings) -> None:
        """Refuse a number to which nothing could be sent: its country is not allowed, or it is a premium number.

        Raises ValueError with the reason and the setting.
        """
        countries = create_country_policy(load_sms_settings(settings))
        if countries is not None and (refusal := countries.find_refusal(parse_number(address))) is not None:
            raise ValueError(refusal)

    def list_categories(self, settings: Settings) -> Mapping[str, Sequence[str]]:
        """Return the codes of categories by the name of their setting. Raises ConfigError."""
        return {f"{PREFIX}DUPLICATE_OK": load_sms_settings(settings).duplicate_ok}

    def create_linter(self, settings: Settings) -> Callable[[RenderedMessage, Category], Sequence[LintFinding]]:
        """Return what measures texts, and misses a way to opt out. Raises ConfigError."""
        own = load_sms_settings(settings)
        return partial(
            lint_text,
            senders=list_senders(list_provider_urls(own)),
            plain=own.plain_text,
            max_segments=own.max_segments,
        )

    def create_hooks(self, settings: Settings) -> SmsHooks:
        """Return what reads the calls of providers. Raises ConfigError naming the setting."""
        return SmsHooks(load_sms_settings(settings))

    async def check(self, context: CheckContext) -> Sequence[CheckResult]:
        """Ask each provider whether it accepts the account. Nothing is sent. Raises ConfigError."""
        if not self.is_configured(context.settings):
            return []
        channel = create_sms_channel(load_sms_settings(context.settings), SystemClock())
        assert channel is not None, "a provider is configured"
        try:
            answers = await channel.check()
        finally:
            await channel.close()
        return [read_credentials_response(f"SMS provider {name}", answer, SHORT_NAME) for name, answer in answers]

    def create(self, context: ChannelContext) -> SmsChannel:
        """Return the channel, not opened yet. Raises ConfigError naming the setting and the fix."""
        channel = create_sms_channel(
            load_sms_settings(context.settings), context.clock, context.alerts, store=context.store
        )
        if channel is None:
            raise ConfigError(SHORT_NAME, "is not set; set it to the URL of a provider")
        return channel
