"""The checks of `tidings doctor`: the contact for push services, https, and the keys in the database."""

from collections.abc import Iterator

from tidings.channels.plugin import CheckContext
from tidings.channels.webpush.settings import FALLBACK_SUBJECT, load_webpush_settings
from tidings.config.settings import Settings
from tidings.errors import ConfigError
from tidings.model.check import CheckResult
from tidings.ports.store import Store

_SECRET_KEY = "TIDINGS_SECRET_KEY"  # noqa: S105  # the name of a setting


async def check(context: CheckContext) -> list[CheckResult]:
    """Check the settings, and decrypt the stored VAPID keys with the secret key, as a start does."""
    results = list(_check_settings(context.settings))
    if context.store is not None and (found := await _check_keys(context.store)) is not None:
        results.append(found)
    return results


def _check_settings(settings: Settings) -> Iterator[CheckResult]:
    if load_webpush_settings(settings).subject == FALLBACK_SUBJECT:
        yield CheckResult("warning", "TIDINGS_VAPID_SUBJECT", "push services cannot reach you; set it to mailto:you@…")
    if settings.is_public and settings.frontend_url.startswith("http://"):
        yield CheckResult("warning", "TIDINGS_FRONTEND_URL", "browsers allow Web Push on https sites only")


async def _check_keys(store: Store) -> CheckResult | None:
    """Decrypt the keys; None if there are none yet."""
    try:
        async with store.read_snapshot() as tx:
            keys = await store.vapid_keys.list_all(tx)
    except ConfigError as error:
        return CheckResult("problem", error.setting, error.message.removeprefix(f"{error.setting}: "))
    return CheckResult("ok", _SECRET_KEY, "decrypts the encrypted fields of the database") if keys else None
