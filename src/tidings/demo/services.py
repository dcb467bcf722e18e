"""Services of the demo: a mock push and a mock mail service as child processes, and an admin key to display."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tidings.channels.webpush.settings import load_webpush_settings
from tidings.config.secret_files import ensure_secret
from tidings.config.settings import Settings
from tidings.credentials import mint_api_key
from tidings.errors import ConfigError, TidingsError
from tidings.mockmail.server import MockMailOptions
from tidings.mockmail.spawn import spawn as spawn_mail
from tidings.mockpush.server import MockPushOptions
from tidings.mockpush.spawn import spawn

_PORT_FILE = "demo-push-port"
_MAILBOX_FILE = "demo-mailbox-url"
#: messages that the mailbox keeps: one to each demo user, and more
_KEPT_MAILS = 10_000
_SENDER = "Encore <alerts@encore.example>"


@asynccontextmanager
async def run_demo_services(settings: Settings) -> AsyncIterator[Settings]:
    """Run the mock services for the length of the block. Yields settings that use them and contain the admin key.

    E-mail goes to the mock mail service, also if another relay is configured: the demo's users do not exist. The port
    of the push service is kept over restarts, because the devices' endpoints contain it. Raises ConfigError if it is
    in use.
    """
    port_file = settings.data_dir / _PORT_FILE
    port = int(port_file.read_text()) if port_file.exists() else 0
    started = False
    try:
        async with AsyncExitStack() as stack:
            push = await stack.enter_async_context(spawn(MockPushOptions(port=port)))
            started = True
            mail = await stack.enter_async_context(spawn_mail(MockMailOptions(keep=_KEPT_MAILS)))
            url = urlsplit(push.origin)
            port_file.write_text(str(url.port))
            _mailbox_file(settings).write_text(mail.url)
            extra_hosts = ",".join((*load_webpush_settings(settings).extra_hosts, url.netloc))
            key = settings.bootstrap_key or _load_admin_key(settings)
            yield settings.model_copy(update={"bootstrap_key": key}).with_channel_values(
                {
                    "TIDINGS_PUSH_EXTRA_HOSTS": extra_hosts,
                    "TIDINGS_SMTP_URL": mail.smtp_url,
                    "TIDINGS_EMAIL_FROM": _SENDER,
                }
            )
    except TidingsError as error:
        if started:
            raise
        raise ConfigError(
            "TIDINGS_DATA_DIR",
            f"the demo's push service could not start on port {port}, which its devices' endpoints contain; free that "
            "port, or use another --data-dir",
        ) from error


def read_mailbox_url(settings: Settings) -> str:
    """Return the URL of the page that shows the demo's e-mails."""
    return _mailbox_file(settings).read_text()


def _mailbox_file(settings: Settings) -> Path:
    return settings.data_dir / _MAILBOX_FILE


def _load_admin_key(settings: Settings) -> str:
    """Return the demo's admin key. It is stored in a file, because the database contains only its hash."""
    return ensure_secret(settings.data_dir, "demo_key", lambda: mint_api_key().plain)
