"""The declaration of a channel. The composition root finds the channels in the entry-point group `tidings.channels`."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tidings.errors import ConfigError

# authors of channels find all parts of a channel in this module
from tidings.ports.plugin import BackgroundTask as BackgroundTask
from tidings.ports.plugin import CheckContext as CheckContext
from tidings.ports.plugin import TaskScope as TaskScope

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from cyclopts import App
    from fastapi import APIRouter

    from tidings.config.settings import Settings, SettingSource
    from tidings.model.channel import ChannelTraits
    from tidings.model.check import CheckResult
    from tidings.model.lint import LintFinding
    from tidings.model.receipt import ProviderEvent
    from tidings.model.suppression import SoftBouncePolicy
    from tidings.model.template import Category, RenderedMessage
    from tidings.ports.alerts import AlertSink
    from tidings.ports.broadcaster import Broadcaster
    from tidings.ports.channel import Channel
    from tidings.ports.clock import Clock
    from tidings.ports.command_host import CommandHost
    from tidings.ports.pack_context import PackContext
    from tidings.ports.store import Store, Transaction

ENTRY_POINT_GROUP = "tidings.channels"


@dataclass(frozen=True, slots=True)
class ChannelContext:
    """The services that a channel may use. A channel with settings of its own reads them from the environment."""

    settings: Settings
    clock: Clock
    store: Store
    alerts: AlertSink
    broadcaster: Broadcaster
    #: the configured channels of this process by name; empty until all are created
    channels: Mapping[str, Channel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HookRequest:
    """A call of a provider, as it was received."""

    provider: str
    path: str
    #: without the question mark
    query: str
    #: by name in lower case
    headers: Mapping[str, str]
    body: bytes
    now: datetime


@dataclass(frozen=True, slots=True)
class HookReading:
    """What a verified call says, and the answer to it."""

    events: Sequence[ProviderEvent] = ()
    #: what an operator must do, such as to confirm a subscription
    notice: str | None = None
    body: bytes = b""
    media_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class FeedbackPolicy:
    """How the events of a channel's providers are judged."""

    soft_bounces: SoftBouncePolicy
    #: an operator is told if messages are sent, but no provider reports anything for so long
    max_silence: timedelta


class ChannelHooks(Protocol):
    """Reads the calls of the providers of one channel."""

    @property
    def providers(self) -> Sequence[str]:
        """The providers whose calls can be verified."""
        ...

    @property
    def feedback(self) -> FeedbackPolicy:
        """How the events are judged."""
        ...

    async def read(self, request: HookRequest, /) -> HookReading:
        """Verify a call over the bytes that were received, and return what it says.

        Raises Unauthenticated if it cannot be verified, ValidationFailed for a body that the provider does not send,
        NotFound for a provider that is not one of `providers`.
        """
        ...


class ChannelPlugin(Protocol):
    """Declares a channel, and creates it. An entry point of `tidings.channels` with the channel's name refers to it."""

    @property
    def traits(self) -> ChannelTraits:
        """What the engine knows of the channel."""
        ...

    def is_configured(self, settings: Settings, /) -> bool:
        """Return whether messages can be sent. Raises ConfigError naming the setting and the fix."""
        ...

    def parse_address(self, address: str, settings: Settings, /) -> str:
        """Return the canonical form of an address. Raises ValueError with what it must be."""
        ...

    def create(self, context: ChannelContext, /) -> Channel:
        """Return the channel, not opened yet. Raises ConfigError naming the setting and the fix."""
        ...


@runtime_checkable
class HasSettings(Protocol):
    """A channel whose settings `tidings doctor` shows."""

    def list_settings(self, settings: Settings, /) -> Sequence[SettingSource]:
        """Return the settings with their values, without secrets, and their sources. Raises ConfigError."""
        ...


@runtime_checkable
class HasCategorySettings(Protocol):
    """A channel with settings that list categories."""

    def list_categories(self, settings: Settings, /) -> Mapping[str, Sequence[str]]:
        """Return the codes of categories by the name of their setting. Each must be declared by a pack."""
        ...


@runtime_checkable
class HasArrivalReports(Protocol):
    """A channel whose devices report, in some categories, that a message arrived."""

    def list_receipt_categories(self, settings: Settings, /) -> Collection[str]:
        """Return the codes of these categories. In the others, what was handed over counts as delivered."""
        ...


@runtime_checkable
class HasLint(Protocol):
    """A channel that looks for faults in rendered templates, before they are sent."""

    def create_linter(self, settings: Settings, /) -> Callable[[RenderedMessage, Category], Sequence[LintFinding]]:
        """Return what finds faults in a message. Raises ConfigError. Its result raises ValidationFailed."""
        ...


@runtime_checkable
class HasSecrets(Protocol):
    """A channel with a secret per contact point, which the owner of the address receives once."""

    def create_secrets(self) -> tuple[str, ...]:
        """Return the secrets of a new contact point."""
        ...


@runtime_checkable
class HasAddressCheck(Protocol):
    """A channel that refuses some well-formed addresses, such as phone numbers of other countries."""

    def check_address(self, address: str, settings: Settings, /) -> None:
        """Check an address, in its canonical form, before it is stored as a contact point.

        Raises ValueError with the reason and the fix.
        """
        ...


@runtime_checkable
class HasSecretAddresses(Protocol):
    """A channel whose addresses are credentials, such as webhook URLs of a chat. They are not shown again."""

    def describe_address(self, address: str) -> str:
        """Return an address without its secrets."""
        ...


@runtime_checkable
class HasRoutes(Protocol):
    """A channel with routes of its own, such as provider webhooks and pages for recipients."""

    def create_router(self, context: PackContext) -> APIRouter:
        """Return the routes, with their complete paths."""
        ...


@runtime_checkable
class HasHooks(Protocol):
    """A channel whose providers report what became of messages: `POST /hooks/{channel}/{provider}`."""

    def create_hooks(self, settings: Settings, /) -> ChannelHooks:
        """Return what reads the calls. Called once in each process. Raises ConfigError naming the setting."""
        ...


@runtime_checkable
class HasPreparation(Protocol):
    """A channel that loads something from the database before it sends or serves routes."""

    async def prepare(self, context: ChannelContext, /) -> None:
        """Prepare the channel of `context.channels`. Called once in each process, after the schema was migrated.

        Raises ConfigError naming the setting and the fix.
        """
        ...


@runtime_checkable
class HasCommands(Protocol):
    """A channel with commands of its own."""

    def create_commands(self, host: CommandHost, /) -> App:
        """Return the commands, mounted as `tidings <channel> …`."""
        ...


@runtime_checkable
class HasChecks(Protocol):
    """A channel with lines of its own in `tidings doctor`."""

    async def check(self, context: CheckContext, /) -> Sequence[CheckResult]:
        """Return the results, also if the channel is not configured. Whatever is wrong names the setting and the fix.

        A TidingsError that it raises is shown as a problem of the channel.
        """
        ...


@runtime_checkable
class HasMigrations(Protocol):
    """A channel with tables of its own. They run after the engine's, with a version table of their own."""

    @property
    def migrations(self) -> Path:
        """The folder of the migrations `m0001_….py` and so on (docs/howto/new-pack.md)."""
        ...


@runtime_checkable
class HasBackgroundTasks(Protocol):
    """A channel with work that is repeated while a process runs."""

    def create_tasks(self, context: ChannelContext, /) -> Sequence[BackgroundTask]:
        """Return the tasks of the configured channel. Called once in each server process."""
        ...


@runtime_checkable
class HasUserData(Protocol):
    """A channel that stores data about users beside their contact points and deliveries."""

    async def export_user(self, tx: Transaction, user_id: str, /) -> Mapping[str, object]:
        """Return everything the channel stores about the user, by name: JSON values and aware datetimes."""
        ...

    async def erase_user(self, tx: Transaction, user_id: str, /) -> None:
        """Delete everything the channel stores about the user. Called before the user's row is deleted."""
        ...


def load_channel_plugins() -> Mapping[str, ChannelPlugin]:
    """Return the installed channels by name.

    Raises ConfigError naming the entry point that cannot be loaded, or if there is none: Tidings itself brings several.
    """
    entries = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)
    if not entries:
        raise ConfigError(ENTRY_POINT_GROUP, "there is no entry point; install Tidings with `pip install`")
    return {entry.name: load_channel_plugin(entry) for entry in entries}


def load_channel_plugin(entry: EntryPoint) -> ChannelPlugin:
    """Return the channel that an entry point refers to. Raises ConfigError naming it if it cannot be loaded."""
    try:
        plugin: ChannelPlugin = entry.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError("channels", f"channel {entry.name} ({entry.value}) cannot be loaded: {reason}") from error
    return plugin
