"""The checks of `tidings doctor` that the channels and packs bring, and that of the providers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Literal, TypeAlias

from tidings.channels.plugin import ChannelPlugin, HasChecks, HasHooks, HasLint, HasSettings, load_channel_plugins
from tidings.config.settings import MIN_PUBLIC_SECRET, Settings, SettingSource
from tidings.errors import ConfigError, TidingsError
from tidings.model.check import CheckResult
from tidings.model.lint import LintLevel
from tidings.model.outcome import Outcome
from tidings.packs.discovery import list_pack_settings, load_packs
from tidings.ports.pack import Pack
from tidings.ports.plugin import CheckContext
from tidings.stores.store import SqlStore

#: seconds that the checks of one channel or pack may take
CHECK_TIMEOUT = 5.0

_LINT_LEVELS: Mapping[LintLevel, Literal["ok", "warning", "problem"]] = {
    LintLevel.INFO: "ok",
    LintLevel.WARNING: "warning",
    LintLevel.ERROR: "problem",
}
Check: TypeAlias = Callable[[CheckContext], Awaitable[Sequence[CheckResult]]]


def check_plugins(settings: Settings, *, is_database_readable: bool) -> Sequence[CheckResult]:
    """Run the checks of the installed channels and packs, with the store if its schema is current.

    A channel that is not configured is skipped with the setting that configures it.
    """
    channels, packs = _load_plugins()
    checks: dict[str, Check] = {
        f"channel {name}": partial(_check_channel, name, plugin) for name, plugin in channels.items()
    }
    checks |= {f"pack {pack.name}": pack.check for pack in packs if pack.check is not None}
    checks["templates"] = _check_templates
    checks["providers"] = _check_providers
    return asyncio.run(_run(settings, checks, is_database_readable))


def list_all_plugin_settings(settings: Settings) -> Sequence[SettingSource]:
    """Return the settings of the channels and packs that have some. A wrong one is left out, as a check reports it."""
    listed: list[SettingSource] = []
    channels, packs = _load_plugins()
    for plugin in channels.values():
        if isinstance(plugin, HasSettings):
            with suppress(ConfigError):
                listed += plugin.list_settings(settings)
    for pack in packs:
        with suppress(ConfigError):
            listed += list_pack_settings(pack)
    return listed


def _load_plugins() -> tuple[Mapping[str, ChannelPlugin], Sequence[Pack]]:
    """Return the channels and packs, none if one cannot be loaded: the check of packs and channels reports it."""
    try:
        return load_channel_plugins(), load_packs()
    except ConfigError:
        return {}, ()


async def _check_templates(context: CheckContext) -> Sequence[CheckResult]:
    """Return what the configured channels find in the samples of templates. Measures are one line per template."""
    # loads all packs, which is slow
    from tidings.container import build_catalog
    from tidings.rendering.minijinja_renderer import MinijinjaRenderer
    from tidings.rendering.template_lint import lint_template

    plugins, packs = _load_plugins()
    try:
        catalog, _ = build_catalog(packs, plugins, context.settings)
    except ConfigError:
        # the check of packs and channels reports it
        return []
    renderer = MinijinjaRenderer(catalog.filters, context.settings.frontend_url)
    linters = {
        name: plugin.create_linter(context.settings)
        for name in catalog.channels
        if isinstance(plugin := plugins[name], HasLint)
    }
    return [
        CheckResult(
            _LINT_LEVELS[one.finding.level], f"template {code}", f"{one.channel}, {one.locale}: {one.finding.message}"
        )
        for code, template in catalog.templates.items()
        for one in lint_template(template, catalog.get_category(template.category), renderer, linters)
    ]


async def _check_providers(context: CheckContext) -> Sequence[CheckResult]:
    """Return what the running workers report about their providers."""
    from tidings.observability.provider_status import check_providers, load_provider_reports
    from tidings.ports.clock import SystemClock

    if context.store is None:
        return []
    return check_providers(await load_provider_reports(context.store, SystemClock()))


async def _run(settings: Settings, checks: Mapping[str, Check], is_database_readable: bool) -> list[CheckResult]:
    results: list[CheckResult] = []
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(_open_store(settings)) if is_database_readable else None
        context = CheckContext(settings, store)
        for owner, check in checks.items():
            try:
                async with asyncio.timeout(CHECK_TIMEOUT):
                    results += await check(context)
            except TidingsError as error:
                results.append(CheckResult("problem", owner, error.message))
            except Exception as error:  # noqa: BLE001  # a fault of one plug-in must not hide the other checks
                reason = str(error) or "no response in time"
                results.append(CheckResult("problem", owner, f"{type(error).__name__}: {reason}"))
    return results


async def _check_channel(name: str, plugin: ChannelPlugin, context: CheckContext) -> Sequence[CheckResult]:
    """Return whether the channel is configured, what its own checks find, and its hooks. Raises ConfigError."""
    found = await plugin.check(context) if isinstance(plugin, HasChecks) else ()
    if plugin.is_configured(context.settings):
        configured = CheckResult("ok", f"channel {name}", "is configured")
        return [configured, *found, *_check_hooks(name, plugin, context.settings)]
    setting = plugin.traits.setting
    fix = f"set {setting} to use it" if setting is not None else "it needs no setting"
    return [*found, CheckResult("skipped", f"channel {name}", f"is not configured; {fix}")]


def _check_hooks(name: str, plugin: ChannelPlugin, settings: Settings) -> Sequence[CheckResult]:
    """Return at which addresses providers report events, for a channel that has such. Raises ConfigError."""
    if not isinstance(plugin, HasHooks):
        return []
    if providers := plugin.create_hooks(settings).providers:
        addresses = ", ".join(f"/hooks/{name}/{provider}" for provider in providers)
        return [CheckResult("ok", f"events of {name}", f"providers report to POST {addresses}")]
    message = "no provider can report bounces or receipts; docs/howto/provider-events.md shows the settings"
    return [CheckResult("skipped", f"events of {name}", message)]


async def send_test(settings: Settings, name: str, address: str) -> Outcome:
    """Send a test message over a channel and return what the provider answered.

    Raises NotFound for an unknown channel, Conflict if it is not configured, ValidationFailed for the address.
    """
    from tidings.channels.channel_test import send_test_message
    from tidings.container import AppContainer

    async with AppContainer.open(settings) as runtime:
        try:
            return await send_test_message(
                name,
                address,
                plugins=runtime.plugins,
                channels=runtime.channels,
                clock=runtime.clock,
                settings=settings,
            )
        finally:
            if name in runtime.channels:
                await runtime.channels[name].close()


@asynccontextmanager
async def _open_store(settings: Settings) -> AsyncIterator[SqlStore | None]:
    """Yield the store, None if the schema of the engine is not current. Creates no file and no secret."""
    from tidings.stores.engine import postgres, sqlite
    from tidings.stores.engine.field_encryption import FieldCipher

    path = settings.sqlite_path
    if path is not None and not (path.exists() and path.stat().st_size):
        yield None
        return
    secret = settings.secret_key if len(settings.secret_key) >= MIN_PUBLIC_SECRET else "?" * MIN_PUBLIC_SECRET
    engines = (
        sqlite.create_engines(path) if path is not None else postgres.create_engines(settings.database, pool_size=1)
    )
    store = SqlStore(*engines, FieldCipher(secret), {})
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            is_current = (await store.schema_status()).is_current
        yield store if is_current else None
    finally:
        await store.close()
