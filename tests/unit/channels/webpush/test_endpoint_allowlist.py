"""The endpoint allow-list against misleading spellings of URLs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.webpush import EndpointPolicy
from tidings.errors import ConfigError, ValidationFailed

BIG_FOUR = EndpointPolicy()


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://fcm.googleapis.com/fcm/send/dX:APA91b_-", "https://fcm.googleapis.com"),
        ("https://fcm.googleapis.com:443/wp/x", "https://fcm.googleapis.com"),
        ("https://updates.push.services.mozilla.com/wpush/v2/gAAA", "https://updates.push.services.mozilla.com"),
        ("https://web.push.apple.com/QGuQyavXutnMH", "https://web.push.apple.com"),
        ("https://db5p.notify.windows.com/w/?token=BQYAAAC%2f", "https://db5p.notify.windows.com"),
    ],
)
def test_the_big_services_are_allowed(url: str, origin: str) -> None:
    assert BIG_FOUR.check(url).serialization == origin
    assert not BIG_FOUR.check(url).is_configured


@pytest.mark.parametrize(
    "url",
    [
        "",
        "fcm.googleapis.com/x",
        "/x",
        "//fcm.googleapis.com/x",
        "http://fcm.googleapis.com/x",
        "HTTPS://fcm.googleapis.com/x",
        "https:/fcm.googleapis.com/x",
        "https:fcm.googleapis.com/x",
        "https:///fcm.googleapis.com/x",
        "ftp://fcm.googleapis.com/x",
        "javascript://fcm.googleapis.com/x",
        "https://fcm.googleapis.com",
        "https://fcm.googleapis.com/",
        "https://fcm.googleapis.com?x=1",
        "https://fcm.googleapis.com/x#y",
        "https://fcm.googleapis.com:8443/x",
        "https://fcm.googleapis.com:/x",
        "https://fcm.googleapis.com:99999/x",
        "https://fcm.googleapis.com:４４３/x",
        "https://user@fcm.googleapis.com/x",
        "https://user:secret@fcm.googleapis.com/x",
        "https://@fcm.googleapis.com/x",
        "https://fcm.googleapis.com@evil.example/x",
        "https://fcm.googleapis.com:443@evil.example/x",
        "https://evil.example\\@fcm.googleapis.com/x",
        "https://evil.example\\.push.apple.com/x",
        "https://evil.example#@fcm.googleapis.com/x",
        "https://evil.example?.push.apple.com/x",
        "https://evil.example/.push.apple.com/x",
        "https://fcm.googleapis.com.evil.example/x",
        "https://fcm.googleapis.com./x",
        "https://evilfcm.googleapis.com/x",
        "https://push.apple.com/x",
        "https://.push.apple.com/x",
        "https://evilpush.apple.com/x",
        "https://a..push.apple.com/x",
        "https://-a.push.apple.com/x",
        "https://a_b.push.apple.com/x",
        "https://web.push.apple.com.evil.example/x",
        "https://evil.notify.windows.com.evil.example/x",
        "https://FCM.googleapis.com/x",
        "https://fcm%2egoogleapis.com/x",
        "https://fcm.googleapis.com%00.evil.example/x",
        "https://fcm.googleapis.com%2f.push.apple.com/x",
        "https://fcm.googleapis.c\u043em/x",
        "https://fcm。googleapis。com/x",
        "https://ｆcm.googleapis.com/x",
        "https://fcm.googleapis.com\t/x",
        "https://fcm.goo\ngleapis.com/x",
        " https://fcm.googleapis.com/x",
        "https://fcm.googleapis.com/x\r\nHost: evil.example",
        "https://fcm.googleapis.com/x y",
        "https://127.0.0.1/x",
        "https://2130706433/x",
        "https://0x7f000001/x",
        "https://0177.0.0.1/x",
        "https://127.1/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[64:ff9b::7f00:1]/x",
        "https://[::1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/x",
        "https://fcm.googleapis.com/" + "x" * 2048,
    ],
)
def test_every_other_spelling_is_refused_naming_the_field(url: str) -> None:
    with pytest.raises(ValidationFailed) as raised:
        BIG_FOUR.check(url)
    assert [error.field for error in raised.value.field_errors] == ["endpoint"]
    # twice: the cached result of the first check must not allow it
    with pytest.raises(ValidationFailed):
        BIG_FOUR.check(url)


@given(st.text(max_size=80))
def test_no_text_raises_anything_but_invalid(rest: str) -> None:
    for url in (rest, f"https://{rest}", f"https://fcm.googleapis.com{rest}", f"https://{rest}.push.apple.com/x"):
        try:
            origin = BIG_FOUR.check(url)
        except ValidationFailed:
            continue
        assert origin.serialization in url
        assert origin.host == "fcm.googleapis.com" or origin.host.endswith(".push.apple.com")


def test_configured_hosts_may_use_plain_http_and_any_port() -> None:
    policy = EndpointPolicy.parse(" push.internal:8443, 127.0.0.1:9090 ,[::1]:9091,local.test,")
    assert policy.check("http://127.0.0.1:9090/x").serialization == "http://127.0.0.1:9090"
    assert policy.check("https://push.internal:8443/x").serialization == "https://push.internal:8443"
    assert policy.check("http://[::1]:9091/x").serialization == "http://[::1]:9091"
    assert policy.check("http://local.test/x").serialization == "http://local.test"
    assert policy.check("https://local.test/x").is_configured


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9091/x",
        "http://127.0.0.1/x",
        "http://127.0.0.2:9090/x",
        "http://127.1:9090/x",
        "http://user@127.0.0.1:9090/x",
        "http://local.test:8080/x",
        "http://push.internal/x",
    ],
)
def test_a_configured_host_allows_nothing_else(url: str) -> None:
    with pytest.raises(ValidationFailed):
        EndpointPolicy.parse("push.internal:8443,127.0.0.1:9090,local.test").check(url)


@pytest.mark.parametrize(
    "entry",
    ["http://x.example", "x.example/", "user@x.example", "x.example:0", "a b", "[::1", "*.x.example", "X:99999"],
)
def test_a_wrong_entry_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"^TIDINGS_PUSH_EXTRA_HOSTS: "):
        EndpointPolicy.parse(f"fine.example,{entry}")


def test_the_policy_is_passed_to_another_process_unchanged() -> None:
    policy = EndpointPolicy.parse("push.internal:8443,[::1]:9091,local.test")
    assert EndpointPolicy.parse(policy.extra_hosts) == policy
    assert EndpointPolicy.parse("") == BIG_FOUR
