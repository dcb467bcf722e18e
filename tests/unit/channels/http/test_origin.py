"""URLs that others wrote: which of them may be posted to."""

import pytest

from tidings.channels.http.origin import Origin, check_url, parse_trusted_hosts
from tidings.errors import ConfigError, ValidationFailed


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://hooks.example.com/in?key=1", Origin("https", "hooks.example.com", 443)),
        ("https://hooks.example.com:8443", Origin("https", "hooks.example.com", 8443)),
        ("https://[2606:4700::1]/", Origin("https", "2606:4700::1", 443)),
        ("https://8.8.8.8/", Origin("https", "8.8.8.8", 443)),
    ],
)
def test_the_origin_of_a_url_is_returned(url: str, origin: Origin) -> None:
    assert check_url(url, "address") == origin


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "ftp://hooks.example.com/",
        "HTTPS://hooks.example.com/",
        "https://user:pass@hooks.example.com/",
        "https://hooks.example.com/#part",
        "https://hooks.example.com:/",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://127.0.0.1./",
        "https://[::ffff:127.0.0.1]/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.exam\tple.com/",
        "https://hööks.example.com/",
        "https:///path",
        "https://",
        "hooks.example.com",
        "https://[::1/",
        "https://hooks.example.com/" + "a" * 2048,
    ],
)
def test_a_url_that_may_mean_another_host_is_refused(url: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        check_url(url, "address")
    assert [error.field for error in refused.value.field_errors] == ["address"]


def test_a_trusted_host_may_use_plain_http() -> None:
    trusted = parse_trusted_hosts(("hooks.internal:8080", "[::1]:9090", "plain.internal"), "HOSTS")
    assert check_url("http://hooks.internal:8080/x", "address", trusted).is_trusted
    assert check_url("http://[::1]:9090/x", "address", trusted).is_trusted
    assert check_url("http://plain.internal/x", "address", trusted).is_trusted
    assert not check_url("https://hooks.internal/x", "address", trusted).is_trusted
    with pytest.raises(ValidationFailed):
        check_url("http://hooks.internal:8081/x", "address", trusted)


@pytest.mark.parametrize("entry", ["https://hooks.internal", "user@hooks.internal", "hooks.internal:x", "", "a/b"])
def test_an_invalid_trusted_host_names_the_setting(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"^HOSTS: "):
        parse_trusted_hosts((entry,), "HOSTS")
