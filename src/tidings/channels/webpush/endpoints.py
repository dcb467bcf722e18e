"""Which push endpoints are allowed: a URL given by a stranger, judged by its parsed host name (facts: RFC 8030 §8)."""

import ipaddress
import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

import msgspec

from tidings.errors import ConfigError, Invalid

EXTRA_HOSTS_SETTING = "TIDINGS_PUSH_EXTRA_HOSTS"
MAX_LENGTH = 2048

#: one exact host, or a suffix beginning with a dot
_BUILT_IN = frozenset({"fcm.googleapis.com", "updates.push.services.mozilla.com"})
_BUILT_IN_SUFFIXES = (".push.apple.com", ".notify.windows.com")
_DEFAULT_PORTS = {"https": 443, "http": 80}
#: authorities remembered after a full check
_MAX_KNOWN = 4096

# These look at characters only; the host is taken from the parser. A backslash is a slash to WHATWG parsers and a
# letter to RFC 3986 ones, tabs and newlines vanish in the former: such a URL could name two hosts.
_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_AUTHORITY = re.compile(r"(https?)://([^/?#]*)")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port of an allowed endpoint."""

    scheme: str
    #: lower-case name or IP literal, without brackets
    host: str
    port: int
    #: named by the operator: may be plain http and may have a private address
    configured: bool = False

    @property
    def text(self) -> str:
        """The origin as VAPID's `aud` wants it: no default port, no trailing slash (RFC 6454 §6.1)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


@dataclass(frozen=True)
class EndpointPolicy:
    """The allow-list: the big push services and what the operator adds."""

    #: (host, port); None is the default port of either scheme
    extra: frozenset[tuple[str, int | None]] = frozenset()

    @classmethod
    def parse(cls, extra_hosts: str) -> "EndpointPolicy":
        """Return the policy of a setting such as `push.internal:8443,127.0.0.1:9090,[::1]:9090`.

        Raises ConfigError naming the setting and the entry that is wrong.
        """
        entries = [entry.strip() for entry in extra_hosts.split(",")]
        return cls(frozenset(_parse_extra(entry) for entry in entries if entry))

    @property
    def extra_hosts(self) -> str:
        """The setting again, for handing the policy to another process."""
        return ",".join(
            (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
            for host, port in sorted(self.extra, key=str)
        )

    @cached_property
    def _known(self) -> dict[str, Origin]:
        return {}

    def check(self, url: str) -> Origin:
        """Return the origin of an endpoint that may be pushed to.

        Raises Invalid on `endpoint`: not https on port 443 of an allowed host, user info, odd spellings of a host
        (decimal, mapped, trailing dot, non-ASCII), more than 2 048 characters.
        """
        if len(url) > MAX_LENGTH:
            raise _wrong(f"must have at most {MAX_LENGTH} characters")
        if not _CHARACTERS.fullmatch(url):
            raise _wrong("must be a plain ASCII URL without blanks, quotes or backslashes")
        split = _AUTHORITY.match(url)
        if split is None:
            raise _wrong("must begin with https://")
        prefix = split[0]
        origin = self._known.get(prefix)
        if origin is None:
            origin = self._check_authority(prefix)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[prefix] = origin
        if len(url) <= len(prefix) + 1 or url[len(prefix)] != "/" or "#" in url:
            raise _wrong("must have a path and no fragment")
        return origin

    def _check_authority(self, prefix: str) -> Origin:
        try:
            parts = urlsplit(prefix)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise _wrong("is not a URL") from None
        if "@" in parts.netloc or parts.username is not None or parts.password is not None:
            raise _wrong("must not carry a user name or password")
        if parts.netloc.endswith(":"):
            raise _wrong("must not have an empty port")
        if host is None or host not in parts.netloc or not (_HOST_NAME.fullmatch(host) or _is_literal(host)):
            raise _wrong("must name its host in plain lower-case letters")
        default = _DEFAULT_PORTS[parts.scheme]
        port = default if port is None else port
        if (host, port) in self.extra or ((host, None) in self.extra and port == default):
            return Origin(parts.scheme, host, port, configured=True)
        if host not in _BUILT_IN and not host.endswith(_BUILT_IN_SUFFIXES):
            raise _wrong(f"is not at a known push service; an operator may add its host to {EXTRA_HOSTS_SETTING}")
        if parts.scheme != "https" or port != 443:
            raise _wrong("must be https on port 443")
        return Origin("https", host, 443)


def _wrong(message: str) -> Invalid:
    return Invalid.field("endpoint", message)


def _is_literal(host: str) -> bool:
    try:
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        return False


def _parse_extra(entry: str) -> tuple[str, int | None]:
    fix = "write host or host:port, separated by commas, e.g. push.internal:8443"
    try:
        parts = urlsplit(f"//{entry}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(EXTRA_HOSTS_SETTING, f"{entry!r} is not a host; {fix}") from None
    if host is None or parts.netloc != entry or "@" in entry or port == 0:
        raise ConfigError(EXTRA_HOSTS_SETTING, f"{entry!r} is not a host; {fix}")
    if not _HOST_NAME.fullmatch(host) and not _is_literal(host):
        raise ConfigError(EXTRA_HOSTS_SETTING, f"{entry!r} is not a host name or IP address; {fix}")
    return host, port
