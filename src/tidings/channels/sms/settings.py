"""The settings of the SMS channel (`TIDINGS_SMS__…`, short form `TIDINGS_SMS_URL`), and the channel they describe."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from tidings.channels.http.origin import Origin
from tidings.channels.http.transport import HttpTransport, TransportLimits
from tidings.channels.providers.weights import complete_weights, parse_weight
from tidings.channels.sms import twilio, vonage
from tidings.channels.sms.channel import MAX_IN_FLIGHT, SmsChannel
from tidings.channels.sms.http_provider import HttpSmsProvider
from tidings.channels.sms.numbers import ANY_COUNTRY, CountryPolicy, is_country, parse_number
from tidings.channels.sms.outcome_policy import DEFAULT_RETRY_POLICY
from tidings.channels.sms.provider import SmsProvider
from tidings.channels.sms.spending import (
    ANY_PREFIX,
    SpendingLimits,
    parse_money,
    parse_prefix_caps,
    parse_prices,
)
from tidings.channels.sms.spending_guard import SpendingGuard
from tidings.channels.sms.twilio import TwilioProvider
from tidings.channels.sms.vonage import VonageProvider
from tidings.config.plugin_settings import load_plugin_settings
from tidings.config.settings import Settings
from tidings.errors import ConfigError, ValidationFailed
from tidings.ports.alerts import AlertSink
from tidings.ports.clock import Clock
from tidings.ports.store import Store

PREFIX = "TIDINGS_SMS__"
#: the short form of `TIDINGS_SMS__URL`
SHORT_NAME = "TIDINGS_SMS_URL"
_EXAMPLE = "https://ACCOUNT:SECRET@api.twilio.com?from=+15005550006"
_SENDER = re.compile(r"\+[1-9][0-9]{6,14}|[0-9]{3,15}|(?=.*[A-Za-z])[A-Za-z0-9 ]{1,11}")
#: parameters of a provider's URL
_PARAMETERS = frozenset({"from", "messagingService", "weight", "idempotent"})
_DEFAULT_PORTS = {"https": 443, "http": 80}

ProviderName = Literal["twilio", "vonage"]


class SmsSettings(BaseModel):
    """Settings of the SMS channel. Without `url` the channel is off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: base URL of the provider with account and secret, such as `https://ACCOUNT:SECRET@api.twilio.com?from=+1…`;
    #: `vonage+https://…` names the provider. An empty host is the provider's own
    url: SecretStr | None = None
    #: asked when the first provider refuses the account or cannot be reached, in the same form
    fallback_url: SecretStr | None = None
    #: the API of `url`, unless its scheme names it
    provider: ProviderName = "twilio"
    #: number in E.164, short code, or name of up to 11 letters and digits; `from` in a URL goes first
    sender: str | None = None
    #: id of a Twilio messaging service, instead of a sender
    messaging_service: str | None = None
    #: countries whose numbers may be reached, ISO 3166-1 codes; `*` = all; default: the country of the sender's number
    countries: tuple[str, ...] = ()
    #: numbers with a premium rate may be reached, as far as their countries are allowed
    allow_premium: bool = False
    #: segments per day to numbers with a prefix: `+4490=50`; `*=5000`: to each other country calling code
    prefix_caps: tuple[str, ...] = ()
    #: price of a segment to numbers with a prefix: `+49=0.075`, `*=0.10`
    prices: tuple[str, ...] = ()
    #: the most that all messages of a day may cost, in the currency of the prices; unset = no cap
    daily_spend: str | None = None
    #: public URL that receives receipts, without a query that contains secrets
    callback_url: str | None = None
    #: answer to HELP and INFO, with the name of the sender; empty = an operator is told. Twilio's numbers only
    help_text: str = Field("", max_length=320)
    #: hours without any report of a provider, while messages are sent, after which an operator is told
    max_silence_hours: float = Field(24.0, gt=0)
    #: secret of Vonage's signed webhooks. Twilio signs with the account's secret
    signature_secret: SecretStr | None = None
    #: Vonage's method for webhooks that are signed with the parameter `sig`
    signature_method: Literal["sha256", "sha512", "sha1", "md5", "md5hash"] = "sha256"
    #: categories whose messages go to the fallback although the first provider may have sent them
    duplicate_ok: tuple[str, ...] = ()
    #: segments of the longest message
    max_segments: int = Field(10, ge=1, le=10)
    #: replace typographic quotes, dashes and blanks, which would make a message longer
    plain_text: bool = False
    #: seconds until a provider must have answered
    timeout: float = Field(10.0, gt=0, le=15)


class ProviderUrl(NamedTuple):
    """The parts of a provider's URL."""

    provider: str
    base_url: str
    origin: Origin
    account: str
    secret: str
    sender: str | None
    messaging_service: str | None
    #: share of the messages relative to the other provider; None = not set
    weight: int | None = None
    #: it takes requests with the same `Idempotency-Key` once
    is_idempotent: bool = False


def create_sms_channel(
    settings: SmsSettings,
    clock: Clock,
    alerts: AlertSink | None = None,
    *,
    store: Store | None = None,
    jitter: Callable[[], float] = random.random,
) -> SmsChannel | None:
    """Return the channel, None if no provider is configured. Raises ConfigError naming the setting and the fix.

    `alerts` are for operators. `store` counts the messages of a day; required for caps. `jitter` returns a random
    number, 0 ≤ n < 1.
    """
    urls = list_provider_urls(settings)
    if not urls:
        return None
    if settings.url is None:
        raise ConfigError(SHORT_NAME, f"is required for a fallback; set it, for example to {_EXAMPLE}")
    transport = HttpTransport(
        limits=TransportLimits(
            connect_timeout=min(5.0, settings.timeout), total_timeout=settings.timeout, max_in_flight=MAX_IN_FLIGHT
        )
    )
    weights = complete_weights([url.weight for url in urls])
    providers = [
        HttpSmsProvider(
            _create_provider(url, settings),
            url.origin,
            transport,
            clock,
            name=name,
            weight=weight,
            is_idempotent=url.is_idempotent,
            retry_policy=DEFAULT_RETRY_POLICY,
            jitter=jitter,
        )
        for url, weight, name in zip(urls, weights, _name_providers(urls), strict=True)
    ]
    return SmsChannel(
        providers,
        transport,
        clock,
        _create_country_policy(settings, urls[0].sender),
        alerts,
        spending=_create_guard(settings, store, clock, alerts),
        max_segments=settings.max_segments,
        plain_text=settings.plain_text,
        duplicate_ok=frozenset(settings.duplicate_ok),
        jitter=jitter,
    )


def create_country_policy(settings: SmsSettings) -> CountryPolicy | None:
    """Return the countries that may be reached, None if there is no provider. Raises ConfigError."""
    urls = list_provider_urls(settings)
    return _create_country_policy(settings, urls[0].sender) if urls else None


def _create_country_policy(settings: SmsSettings, sender: str | None) -> CountryPolicy:
    return CountryPolicy(_find_countries(settings, sender), allows_premium=settings.allow_premium)


def _create_guard(
    settings: SmsSettings, store: Store | None, clock: Clock, alerts: AlertSink | None
) -> SpendingGuard | None:
    limits = read_spending_limits(settings)
    if limits == SpendingLimits(prices=limits.prices):
        return None
    assert store is not None, "caps are counted in the database"
    return SpendingGuard(store, clock, limits, alerts)


def read_spending_limits(settings: SmsSettings) -> SpendingLimits:
    """Return the daily caps. Raises ConfigError naming the setting and the fix."""
    values: dict[str, Mapping[str, int]] = {}
    for field, parse in (("prefix_caps", parse_prefix_caps), ("prices", parse_prices)):
        try:
            values[field] = parse(getattr(settings, field))
        except ValueError as error:
            raise ConfigError(f"{PREFIX}{field.upper()}", str(error)) from None
    if settings.daily_spend is None:
        return SpendingLimits(values["prefix_caps"], values["prices"])
    try:
        daily_spend = parse_money(settings.daily_spend)
    except ValueError as error:
        raise ConfigError(f"{PREFIX}DAILY_SPEND", str(error)) from None
    if ANY_PREFIX not in values["prices"]:
        # a number without a price would not count
        fix = "must have a price of all other prefixes for TIDINGS_SMS__DAILY_SPEND; add *=0.10"
        raise ConfigError(f"{PREFIX}PRICES", fix)
    return SpendingLimits(values["prefix_caps"], values["prices"], daily_spend)


def _name_providers(urls: Sequence[ProviderUrl]) -> Sequence[str]:
    """Return a unique name per provider: that of its API, with a number for the second account of the same API."""
    names: list[str] = []
    for url in urls:
        number = 1 + sum(before.provider == url.provider for before in urls[: len(names)])
        names.append(url.provider if number == 1 else f"{url.provider}-{number}")
    return names


def list_provider_urls(settings: SmsSettings) -> list[ProviderUrl]:
    """Return the configured providers in the order in which they are asked. Raises ConfigError.

    Receipts of Twilio are verified with the account's secret, so this also lists their keys.
    """
    named = ((SHORT_NAME, settings.url), (f"{PREFIX}FALLBACK_URL", settings.fallback_url))
    return [_parse_url(name, value.get_secret_value(), settings) for name, value in named if value is not None]


def _parse_url(name: str, text: str, settings: SmsSettings) -> ProviderUrl:
    # the value is left out of messages: it contains a secret
    fix = f"must be a URL such as {_EXAMPLE}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(name, fix) from None
    provider, scheme = _split_scheme(parts.scheme, settings.provider)
    if provider not in ("twilio", "vonage") or scheme not in _DEFAULT_PORTS:
        raise ConfigError(name, f"{fix}; its scheme is https, twilio+https or vonage+https")
    if not parts.username or not parts.password:
        raise ConfigError(name, f"has no account and secret; it {fix}")
    default = urlsplit(twilio.DEFAULT_URL if provider == "twilio" else vonage.DEFAULT_URL).hostname or ""
    host = parts.hostname or default
    query = parse_qs(parts.query)
    if unknown := sorted(set(query) - _PARAMETERS):
        known = ", ".join(sorted(_PARAMETERS))
        raise ConfigError(name, f"has the unknown parameter {unknown[0]!r}; known are {known}")
    try:
        weight = parse_weight(query["weight"][0]) if "weight" in query else None
    except ValueError as error:
        raise ConfigError(name, str(error)) from None
    # a plus in a query is a blank, but a number begins with it
    sender = query["from"][0].replace(" ", "+", 1) if _is_number_query(query) else query.get("from", [None])[0]
    origin = Origin(scheme, host, port or _DEFAULT_PORTS[scheme], is_trusted=True)
    return ProviderUrl(
        provider,
        _build_base_url(scheme, host, port, parts),
        origin,
        unquote(parts.username),
        unquote(parts.password),
        _check_sender(name, sender or settings.sender),
        query.get("messagingService", [settings.messaging_service])[0],
        weight,
        query.get("idempotent", ["0"])[0] == "1",
    )


def _split_scheme(scheme: str, default: str) -> tuple[str, str]:
    provider, separator, rest = scheme.partition("+")
    if separator:
        return provider, rest
    return (scheme, "https") if scheme in ("twilio", "vonage") else (default, scheme)


def _is_number_query(query: dict[str, list[str]]) -> bool:
    return "from" in query and query["from"][0].startswith(" ")


def _build_base_url(scheme: str, host: str, port: int | None, parts: SplitResult) -> str:
    authority = f"[{host}]" if ":" in host else host
    return f"{scheme}://{authority}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


def _check_sender(name: str, sender: str | None) -> str | None:
    if sender is not None and not _SENDER.fullmatch(sender):
        fix = "a number such as +15005550006, a short code, or a name of up to 11 letters and digits"
        raise ConfigError(name, f"has the sender {sender!r}, which must be {fix}")
    return sender


def _create_provider(url: ProviderUrl, settings: SmsSettings) -> SmsProvider:
    if url.provider == "vonage":
        if url.sender is None:
            raise ConfigError(f"{PREFIX}SENDER", "is required for Vonage; set it to a number or a name")
        return VonageProvider(
            account=url.account,
            secret=url.secret,
            sender=url.sender,
            base_url=url.base_url,
            callback_url=settings.callback_url,
        )
    if url.sender is None and url.messaging_service is None:
        raise ConfigError(f"{PREFIX}SENDER", "is required; set it to a number or a name, or add ?from=+1… to the URL")
    return TwilioProvider(
        account=url.account,
        secret=url.secret,
        sender=url.sender,
        messaging_service=url.messaging_service,
        base_url=url.base_url,
        callback_url=settings.callback_url,
    )


def _find_countries(settings: SmsSettings, sender: str | None) -> frozenset[str]:
    """Return the allowed countries. Fraud by messages to expensive countries is common, so none are added silently."""
    setting = f"{PREFIX}COUNTRIES"
    countries = frozenset(code if code == ANY_COUNTRY else code.upper() for code in settings.countries)
    for code in sorted(countries):
        if not is_country(code):
            raise ConfigError(setting, f"{code!r} is not a country; write ISO 3166-1 codes such as DE,AT, or *")
    if countries:
        return countries
    if sender is not None and sender.startswith("+"):
        try:
            country = parse_number(sender).country
        except ValidationFailed:
            country = None
        if country is not None:
            return frozenset({country})
    raise ConfigError(setting, "is required unless the sender is a number; set it to ISO 3166-1 codes such as DE,AT")


def load_sms_settings(settings: Settings) -> SmsSettings:
    """Return the settings of the SMS channel. Raises ConfigError."""
    return load_plugin_settings(SmsSettings, PREFIX, aliases={SHORT_NAME: "url"}, values=settings.channel_values)
