"""The settings of the webhook channel (`TIDINGS_WEBHOOK__…`), and the channel that they describe."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tidings.channels.http.exchange import Exchange
from tidings.channels.http.origin import Origin, check_url, parse_trusted_hosts
from tidings.channels.http.transport import HttpTransport, TransportLimits
from tidings.channels.webhook.channel import SecretSource, WebhookChannel
from tidings.channels.webhook.response_policy import DEFAULT_RETRY_POLICY
from tidings.channels.webhook.signing import generate_secret, parse_secret
from tidings.channels.webhook.status_events import StatusEventSender
from tidings.channels.webhook.variables_endpoint import SignedVariablesEndpoints
from tidings.errors import ConfigError, ValidationFailed
from tidings.model.secret_rotation import list_active_secrets
from tidings.ports.alerts import AlertSink
from tidings.ports.clock import Clock
from tidings.ports.store import Store

PREFIX = "TIDINGS_WEBHOOK__"


class WebhookSettings(BaseModel):
    """Settings of the webhook channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: send notifications to webhook endpoints; otherwise users without one would all have a recorded skip
    enabled: bool = False
    #: hosts, `host[:port]`, that may use plain http and private addresses
    trusted_hosts: tuple[str, ...] = ()
    #: PEM file with an additional CA
    ca_file: Path | None = None
    #: seconds until an endpoint must have answered
    timeout: float = Field(15.0, gt=0, le=60)
    #: endpoint of the host product for status events of notifications and deliveries; None = no events
    events_url: str | None = None
    #: secrets that sign them, and requests for variables; several during a rotation
    events_secret: tuple[str, ...] = ()


def create_webhook_channel(
    settings: WebhookSettings,
    clock: Clock,
    *,
    secrets: SecretSource = list_active_secrets,
    jitter: Callable[[], float] = random.random,
) -> WebhookChannel | None:
    """Return the channel, None if it is disabled. Raises ConfigError naming the setting."""
    if not settings.enabled:
        return None
    trusted_hosts = parse_trusted_hosts(settings.trusted_hosts, f"{PREFIX}TRUSTED_HOSTS")
    transport = _create_transport(settings)
    return WebhookChannel(transport, clock, trusted_hosts=trusted_hosts, secrets=secrets, jitter=jitter)


def create_status_event_sender(
    settings: WebhookSettings,
    store: Store,
    clock: Clock,
    alerts: AlertSink,
    *,
    jitter: Callable[[], float] = random.random,
) -> StatusEventSender | None:
    """Return the sender of status events, None without `events_url`. Raises ConfigError naming the setting."""
    url = settings.events_url
    if url is None:
        return None
    origin = _check_events_url(settings, url)
    keys = _parse_events_secret(settings)
    if not keys:
        raise ConfigError(f"{PREFIX}EVENTS_SECRET", f"is required with {PREFIX}EVENTS_URL; e.g. {generate_secret()}")
    return StatusEventSender(
        store,
        _create_transport(settings),
        clock,
        alerts,
        url=url,
        origin=origin,
        keys=keys,
        retry_policy=DEFAULT_RETRY_POLICY,
        jitter=jitter,
    )


def create_variables_endpoints(settings: WebhookSettings, clock: Clock) -> SignedVariablesEndpoints:
    """Return what asks endpoints for variables of recurring notifications. Raises ConfigError naming the setting."""
    keys = _parse_events_secret(settings)
    return SignedVariablesEndpoints(
        _create_transport(settings) if keys else None,
        clock,
        trusted_hosts=parse_trusted_hosts(settings.trusted_hosts, f"{PREFIX}TRUSTED_HOSTS"),
        keys=keys,
        secret_setting=f"{PREFIX}EVENTS_SECRET",
        trust_setting=f"{PREFIX}TRUSTED_HOSTS",
    )


def _parse_events_secret(settings: WebhookSettings) -> Sequence[bytes]:
    try:
        return [parse_secret(secret) for secret in settings.events_secret]
    except ValidationFailed as error:
        raise ConfigError(f"{PREFIX}EVENTS_SECRET", error.field_errors[0].message) from error


async def probe_events_endpoint(settings: WebhookSettings) -> Exchange | None:
    """Send a request without an event to the endpoint of status events, None without one. Raises ConfigError."""
    url = settings.events_url
    if url is None:
        return None
    origin = _check_events_url(settings, url)
    transport = _create_transport(settings)
    try:
        return await transport.get(origin, url, {"accept": "application/json"})
    finally:
        await transport.close()


def _check_events_url(settings: WebhookSettings, url: str) -> Origin:
    setting = f"{PREFIX}TRUSTED_HOSTS"
    try:
        return check_url(url, "url", parse_trusted_hosts(settings.trusted_hosts, setting), setting=setting)
    except ValidationFailed as error:
        raise ConfigError(f"{PREFIX}EVENTS_URL", error.field_errors[0].message) from error


def _create_transport(settings: WebhookSettings) -> HttpTransport:
    return HttpTransport(
        ca_pem=_read_ca_file(settings.ca_file),
        ca_setting=f"{PREFIX}CA_FILE",
        limits=TransportLimits(connect_timeout=min(5.0, settings.timeout), total_timeout=settings.timeout),
    )


def _read_ca_file(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{PREFIX}CA_FILE", f"cannot read {path}: {error.strerror}") from error
