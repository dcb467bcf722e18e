"""Allow-list for push endpoints: untrusted URLs, checked by their parsed host name (RFC 8030 §8)."""

import ipaddress
import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import force_setattr

from tidings.errors import ConfigError, ValidationFailed

EXTRA_HOSTS_SETTING = "TIDINGS_PUSH_EXTRA_HOSTS"
MAX_ENDPOINT_LENGTH = 2048

_BUILT_IN_HOSTS = frozenset({"fcm.googleapis.com", "updates.push.services.mozilla.com"})
_BUILT_IN_SUFFIXES = (".push.apple.com", ".notify.windows.com")
_DEFAULT_PORTS = {"https": 443, "http": 80}
#: origins cached after a full check
_MAX_CACHED_ORIGINS = 4096

# These patterns check characters only; the host comes from the URL parser. WHATWG parsers read a backslash as a slash
# and drop tabs and newlines, RFC 3986 parsers do not. Such a URL could mean two different hosts, so it is rejected.
_URL_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_AUTHORITY = re.compile(r"(https?)://([^/?#]*)")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port of an allowed endpoint."""

    scheme: str
    #: lower-case name or IP literal, without brackets
    host: str
    port: int
    #: listed in the settings: may use plain http and may have a private address
    is_configured: bool = False
    #: as required in VAPID's `aud`: no default port, no trailing slash (RFC 6454 §6.1); computed once, as each send
    #: reads it several times
    serialization: str = ""

    def __post_init__(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        force_setattr(self, "serialization", f"{self.scheme}://{host}{port}")


@dataclass(frozen=True)
class EndpointPolicy:
    """The allow-list: the built-in push services and the hosts that the operator adds."""

    #: (host, port); port None means the default port of the scheme
    extra_authorities: frozenset[tuple[str, int | None]] = frozenset()

    @classmethod
    def parse(cls, extra_hosts: str) -> "EndpointPolicy":
        """Return the policy for a setting such as `push.internal:8443,127.0.0.1:9090,[::1]:9090`.

        Raises ConfigError that names the setting and the invalid entry.
        """
        entries = [entry.strip() for entry in extra_hosts.split(",")]
        return cls(frozenset(_parse_extra_host(entry) for entry in entries if entry))

    @property
    def extra_hosts(self) -> str:
        """The policy as a setting, to pass it to another process."""
        return ",".join(
            (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
            for host, port in sorted(self.extra_authorities, key=str)
        )

    @property
    def service_names(self) -> tuple[str, ...]:
        """The built-in push services, as `get_service` names them."""
        return tuple(f"https://{name}" for name in (*sorted(_BUILT_IN_HOSTS), *(f"*{s}" for s in _BUILT_IN_SUFFIXES)))

    def get_service(self, origin: Origin) -> str:
        """Return the push service of an allowed origin: the origin, or the wildcard that allows its host.

        Anybody may register an endpoint on any host of a wildcard. The number of services is bounded by the settings.
        """
        if not origin.is_configured:
            for suffix in _BUILT_IN_SUFFIXES:
                if origin.host.endswith(suffix):
                    return f"https://*{suffix}"
        return origin.serialization

    @cached_property
    def _origin_cache(self) -> dict[str, Origin]:
        return {}

    def check(self, url: str) -> Origin:
        """Return the origin of an allowed endpoint.

        Raises ValidationFailed for the field `endpoint` if it is not https on port 443 of an allowed host, has user
        info, spells the host unusually (decimal, mapped, trailing dot, non-ASCII) or has more than 2 048 characters.
        """
        if len(url) > MAX_ENDPOINT_LENGTH:
            raise _endpoint_error(f"must have at most {MAX_ENDPOINT_LENGTH} characters")
        if not _URL_CHARACTERS.fullmatch(url):
            raise _endpoint_error("must be a plain ASCII URL without blanks, quotes or backslashes")
        split = _AUTHORITY.match(url)
        if split is None:
            raise _endpoint_error("must begin with https://")
        prefix = split[0]
        origin = self._origin_cache.get(prefix)
        if origin is None:
            origin = self._check_authority(prefix)
            if len(self._origin_cache) >= _MAX_CACHED_ORIGINS:
                # the oldest entry; a plain dict is read on each send and costs a third of an LRU cache
                del self._origin_cache[next(iter(self._origin_cache))]
            self._origin_cache[prefix] = origin
        if len(url) <= len(prefix) + 1 or url[len(prefix)] != "/" or "#" in url:
            raise _endpoint_error("must have a path and no fragment")
        return origin

    def _check_authority(self, prefix: str) -> Origin:
        try:
            parts = urlsplit(prefix)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise _endpoint_error("is not a URL") from None
        if "@" in parts.netloc or parts.username is not None or parts.password is not None:
            raise _endpoint_error("must not contain a user name or password")
        if parts.netloc.endswith(":"):
            raise _endpoint_error("must not have an empty port")
        if host is None or host not in parts.netloc or not (_HOST_NAME.fullmatch(host) or _is_ip_literal(host)):
            raise _endpoint_error("must have a host name in lower-case ASCII")
        default = _DEFAULT_PORTS[parts.scheme]
        port = default if port is None else port
        if (host, port) in self.extra_authorities or ((host, None) in self.extra_authorities and port == default):
            return Origin(parts.scheme, host, port, is_configured=True)
        if host not in _BUILT_IN_HOSTS and not host.endswith(_BUILT_IN_SUFFIXES):
            raise _endpoint_error(
                f"is not the URL of a known push service; an operator can add its host to {EXTRA_HOSTS_SETTING}"
            )
        if parts.scheme != "https" or port != 443:
            raise _endpoint_error("must be https on port 443")
        return Origin("https", host, 443)


def _endpoint_error(message: str) -> ValidationFailed:
    return ValidationFailed.for_field("endpoint", message)


def _is_ip_literal(host: str) -> bool:
    try:
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        return False


def _parse_extra_host(entry: str) -> tuple[str, int | None]:
    fix = "write host or host:port, separated by commas, e.g. push.internal:8443"
    try:
        parts = urlsplit(f"//{entry}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(EXTRA_HOSTS_SETTING, f"{entry!r} is not a host; {fix}") from None
    if host is None or parts.netloc != entry or "@" in entry or port == 0:
        raise ConfigError(EXTRA_HOSTS_SETTING, f"{entry!r} is not a host; {fix}")
    if not _HOST_NAME.fullmatch(host) and not _is_ip_literal(host):
        raise ConfigError(EXTRA_HOSTS_SETTING, f"{entry!r} is not a host name or IP address; {fix}")
    return host, port
