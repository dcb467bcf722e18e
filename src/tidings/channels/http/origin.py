"""Origins of URLs that others wrote: checked before anything is sent there."""

import ipaddress
import re
from collections.abc import Set
from urllib.parse import urlsplit

import msgspec

from tidings.errors import ConfigError, ValidationFailed

MAX_URL_LENGTH = 2048
_DEFAULT_PORTS = {"https": 443, "http": 80}

# WHATWG parsers read a backslash as a slash and drop tabs and newlines, RFC 3986 parsers do not. Such a URL could mean
# two different hosts, so it is rejected.
_URL_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*")
#: WHATWG parsers read a host whose last label is a number as an IPv4 address, in decimal, octal or hexadecimal
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: (host, port) that an operator trusts; port None means the default port of the scheme
TrustedHosts = Set[tuple[str, int | None]]


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port of a URL."""

    scheme: str
    #: lower-case name or IP literal, without brackets
    host: str
    port: int
    #: configured by an operator: may use plain http and may have a private address
    is_trusted: bool = False


def check_url(url: str, field: str, trusted: TrustedHosts = frozenset(), *, setting: str | None = None) -> Origin:
    """Return the origin of an absolute https URL with a path, query and port of its own choice.

    A host that is trusted may use plain http. setting: that names trusted hosts, for the error. Raises ValidationFailed
    for `field` if the URL has user info or a fragment, spells the host unusually (decimal, mapped, trailing dot,
    non-ASCII) or has more than 2 048 characters.
    """
    if len(url) > MAX_URL_LENGTH:
        raise ValidationFailed.for_field(field, f"must have at most {MAX_URL_LENGTH} characters")
    if not _URL_CHARACTERS.fullmatch(url):
        raise ValidationFailed.for_field(field, "must be a plain ASCII URL without blanks, quotes or backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValidationFailed.for_field(field, "is not a URL") from None
    if not url.startswith(("https://", "http://")):
        raise ValidationFailed.for_field(field, "must begin with https://")
    if "@" in parts.netloc:
        raise ValidationFailed.for_field(field, "must not contain a user name or password")
    if "#" in url:
        raise ValidationFailed.for_field(field, "must not have a fragment")
    if parts.netloc.endswith(":") or port == 0:
        raise ValidationFailed.for_field(field, "must not have an empty port or port 0")
    if host is None or host not in parts.netloc or not _is_host(host):
        raise ValidationFailed.for_field(field, "must have a host name in lower-case ASCII")
    default = _DEFAULT_PORTS[parts.scheme]
    port = default if port is None else port
    is_trusted = (host, port) in trusted or (port == default and (host, None) in trusted)
    if parts.scheme != "https" and not is_trusted:
        unless = "" if setting is None else f", unless {setting} names its host: {parts.netloc}"
        raise ValidationFailed.for_field(field, f"must begin with https://{unless}")
    return Origin(parts.scheme, host, port, is_trusted)


def parse_trusted_hosts(entries: Set[str] | tuple[str, ...], setting: str) -> TrustedHosts:
    """Return the hosts of entries such as `hooks.internal:8443` or `[::1]:9090`.

    Raises ConfigError that names the setting and the invalid entry.
    """
    return frozenset(_parse_trusted_host(entry, setting) for entry in entries)


def _parse_trusted_host(entry: str, setting: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{entry}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if host is None or parts.netloc != entry or "@" in entry or port == 0 or not _is_host(host):
        raise ConfigError(setting, f"{entry!r} is not a host; write host or host:port, e.g. hooks.internal:8443")
    return host, port


def _is_host(host: str) -> bool:
    try:
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        return bool(_HOST_NAME.fullmatch(host)) and not _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2])
