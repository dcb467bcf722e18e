"""Listening sockets. They are bound first, so that an address in use is reported before anything else happens."""

import socket

import structlog

from tidings.config.settings import Settings
from tidings.errors import ConfigError

_log = structlog.get_logger(__name__)


def bind_from_settings(settings: Settings, *, reuse_port: bool = False) -> tuple[socket.socket, Settings]:
    """Bind the address of the settings; return the socket, and the settings with the port that was bound.

    The two ports differ if the settings have port 0. reuse_port: let several processes of one user listen on the port;
    the kernel distributes connections among them. Raises ConfigError naming the setting and the fix.
    """
    listener = bind("TIDINGS_PORT", settings.host, settings.port, reuse_port=reuse_port)
    return listener, settings.with_port(listener.getsockname()[1])


def bind_room_port(settings: Settings) -> socket.socket | None:
    """Return the bound socket of the port of live rooms, None without one.

    If another server on this machine has the default port, rooms are served on the main port only.
    Raises ConfigError if the port was chosen.
    """
    if not settings.websocket_port:
        return None
    try:
        return bind("WEBSOCKET_PORT", settings.host, settings.websocket_port)
    except ConfigError:
        if settings.is_websocket_port_set:
            raise
        _log.info("websocket_port_in_use", port=settings.websocket_port)
        return None


def bind(setting: str, host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Return a bound socket that child processes do not inherit. setting: the one that `port` comes from."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise _bind_error(setting, host, port, error) from error
    listener.set_inheritable(False)
    return listener


def _bind_error(setting: str, host: str, port: int, error: OSError) -> ConfigError:
    # with port 0 any failure is due to the host
    if isinstance(error, socket.gaierror) or not port:
        setting, fix = "TIDINGS_HOST", "use an address of this machine"
    elif setting == "TIDINGS_PORT":
        fix = "choose another with --port or TIDINGS_PORT"
    else:
        fix = f"choose another with {setting}"
    return ConfigError(setting, f"cannot listen on {host} port {port}: {error.strerror}; {fix}")
