"""Binding: first of all, so that a taken port is told before anything is touched and port 0 becomes a real one."""

import socket

from tidings.errors import ConfigError
from tidings.settings import Settings


def listen(settings: Settings, *, reuse_port: bool = False) -> tuple[socket.socket, Settings]:
    """Bind the address of the settings; return the socket and the settings with the port it got.

    reuse_port: let several processes of one user listen on the port; the kernel spreads connections over them.
    Raises ConfigError naming the setting and the fix.
    """
    listener = bound("TIDINGS_PORT", settings.host, settings.port, reuse_port=reuse_port)
    return listener, settings.bound_to(listener.getsockname()[1])


def bound(setting: str, host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Return a socket that is bound and not inherited by child processes. setting: where the port came from."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise _refused(setting, host, port, error) from error
    listener.set_inheritable(False)
    return listener


def _refused(setting: str, host: str, port: int, error: OSError) -> ConfigError:
    if isinstance(error, socket.gaierror):
        setting, fix = "TIDINGS_HOST", "name an address of this machine"
    elif not port:
        setting, fix = "TIDINGS_HOST", "correct it"
    elif setting == "TIDINGS_PORT":
        fix = "choose another with --port or TIDINGS_PORT"
    else:
        fix = "choose another"
    return ConfigError(setting, f"cannot listen on {host} port {port}: {error.strerror}; {fix}")
