"""A relay: an SMTP server that takes messages for delivery, as configured by one URL."""

import re
import ssl
from enum import StrEnum
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tidings.channels.providers.weights import parse_weight

#: ports of submission (RFC 6409 §3.1) and of submission with implicit TLS (RFC 8314 §3.3)
_DEFAULT_PORTS: Final = {"smtp": 587, "smtps": 465}
_EXAMPLE: Final = "an example is smtp://user:password@mail.example.com:587"


class TlsMode(StrEnum):
    """How a connection to a relay is encrypted."""

    #: TLS from the first byte (`smtps://`)
    IMPLICIT = "implicit"
    #: STARTTLS, or no message
    REQUIRED = "required"
    #: STARTTLS if the relay offers it
    OPPORTUNISTIC = "opportunistic"
    OFF = "off"


class Relay(msgspec.Struct, frozen=True):
    """The address and the credentials of one relay."""

    host: str
    port: int
    tls: TlsMode
    username: str | None = None
    password: str | None = None
    #: whether the certificate of the relay is checked
    is_verified: bool = True
    #: share of the messages relative to the other relays; None = not set
    weight: int | None = None

    @property
    def name(self) -> str:
        """The name of the relay in outcomes, logs and metrics. It contains no secret."""
        return f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        return _is_loopback(self.host)

    def __repr__(self) -> str:
        return f"Relay({self.name})"

    def create_tls_context(self) -> ssl.SSLContext:
        """Return the TLS settings of a connection to this relay."""
        context = ssl.create_default_context()
        if not self.is_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def parse_relay(url: str) -> Relay:
    """Return the relay of `smtp://user:password@host:587` or `smtps://host`.

    `?tls=off` sends without encryption and `?tls=unverified` accepts any certificate. `?weight=30` is its share of the
    messages relative to the other relays. With a password, and unless the
    host is this machine, `smtp://` requires STARTTLS. Raises ValueError with the fix; the text contains no password.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"must begin with smtp:// or smtps://; {_EXAMPLE}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"has a port that is not from 1 to 65535; {_EXAMPLE}") from None
    host = parts.hostname or ""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}", host) or parts.path not in ("", "/"):
        raise ValueError(
            f"must contain a host name and no path; characters of a password such as @ and / are "
            f"written as %40 and %2F; {_EXAMPLE}"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    mode = options.pop("tls", None)
    weight = options.pop("weight", None)
    if options or mode not in (None, "off", "unverified"):
        raise ValueError("has an unknown option; known are ?tls=off, ?tls=unverified and ?weight=")
    username = unquote(parts.username) if parts.username else None
    if username is None and parts.password:
        raise ValueError(f"has a password but no user name; {_EXAMPLE}")
    return Relay(
        host=host,
        port=port or _DEFAULT_PORTS[parts.scheme],
        tls=_choose_tls(parts.scheme, mode, has_login=username is not None, host=host),
        username=username,
        password=unquote(parts.password or "") if username is not None else None,
        is_verified=mode != "unverified",
        weight=None if weight is None else parse_weight(weight),
    )


def _choose_tls(scheme: str, mode: str | None, *, has_login: bool, host: str) -> TlsMode:
    if scheme == "smtps":
        if mode == "off":
            raise ValueError("must not be smtps:// with ?tls=off; use smtp://")
        return TlsMode.IMPLICIT
    if mode == "off":
        return TlsMode.OFF
    # a password is not sent in the clear over a network
    return TlsMode.REQUIRED if has_login and not _is_loopback(host) else TlsMode.OPPORTUNISTIC


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
