"""E-mail addresses: parsing, checking, and their form on the wire (RFC 5321, RFC 5890, RFC 6531)."""

import re
from typing import Final

from tidings.errors import ValidationFailed

#: RFC 5321 §4.5.3.1
MAX_LOCAL_LENGTH, MAX_DOMAIN_LENGTH, MAX_LENGTH = 64, 255, 254
_LOCAL: Final = re.compile(r"[^\s\x00-\x1f\x7f\"(),:;<>@\[\\\]]+")
_DOMAIN: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])")


def to_ascii_domain(address: str) -> str:
    """Return an address (or `Name <address>`) with its domain in ASCII (`xn--…`). Case of the local part is kept."""
    address = address.rpartition("<")[2].rstrip("> ") if "<" in address else address.strip()
    local, at, domain = address.rpartition("@")
    if domain.isascii():
        return f"{local}{at}{domain.lower()}"
    try:
        return f"{local}{at}{domain.encode('idna').decode('ascii').lower()}"
    except UnicodeError:
        return address


def parse_address(text: str) -> str:
    """Return a valid address in the form in which it is stored.

    The domain is lower case and ASCII; the local part is unchanged, because servers may distinguish its case.
    Raises ValidationFailed for the field `address`.
    """
    text = text.strip()
    local, at, domain = to_ascii_domain(text).rpartition("@") if "<" not in text else ("", "", "")
    is_valid = (
        at == "@"
        and _LOCAL.fullmatch(local) is not None
        and not local.startswith(".")
        and not local.endswith(".")
        and ".." not in local
        and len(local.encode()) <= MAX_LOCAL_LENGTH
        and len(domain) <= MAX_DOMAIN_LENGTH
        and _DOMAIN.fullmatch(domain) is not None
        and not domain.rpartition(".")[2].isdigit()
        and len(local.encode()) + 1 + len(domain) <= MAX_LENGTH
    )
    if not is_valid:
        raise ValidationFailed.for_field("address", "must be an e-mail address, such as ann@example.com")
    return f"{local}@{domain}"
