"""Whatever is read before authentication is bounded, parsed in linear time, and never answered with 500."""

import base64
import email.message
import hashlib
import hmac
import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tidings.api.middleware.body_limits_and_headers import parse_media_type
from tidings.api.routes.notifications import _TraceCursor
from tidings.credentials import verify_user_token
from tidings.errors import Unauthenticated, ValidationFailed

SECRET = "a user secret for tests, long enough"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json" + ";" * 184,
        "application/json; charset*=utf-8''utf-8; charset*0=utf-8",
        "application/json; charset*0*=x; charset*1=y",
        'application/json; charset="utf-8"',
        'application/json; profile="a;charset=latin-1"',
        "application/json; =; ;;",
        "APPLICATION/JSON;CHARSET=UTF-8",
    ],
)
async def test_odd_parameters_of_a_json_type_are_accepted(call: Any, content_type: str) -> None:
    reply = await call("PUT", "/api/users/u3", body=b"{}", headers={"Content-Type": content_type})
    assert reply.status == 201, reply.body


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json;" + ";" * 120_000,
        "application/json; a=" + "b" * 200,
        "application/json; charset=utf-16",
        'application/json; charset="latin-1"',
        "application",
        "/json",
        ";",
        "application/json/json",
        "multipart/form-data; boundary=" + "=" * 100,
        "\xff\xfe",
    ],
)
async def test_other_types_are_rejected_in_little_time(call: Any, content_type: str) -> None:
    started = time.process_time()
    reply = await call("POST", "/api/notifications", body=b"{}", headers={"Content-Type": content_type}, key=None)
    assert (reply.status, reply.json["code"]) == (415, "unsupported_media_type")
    assert time.process_time() - started < 1


@given(st.text(st.characters(codec="latin-1"), max_size=200).map(lambda text: text.encode("latin-1")))
def test_no_media_type_makes_the_parser_fail(raw: bytes) -> None:
    media_type, charset = parse_media_type(raw)
    assert media_type == media_type.lower()
    assert media_type.count("/") == 1
    assert isinstance(charset, str)


@given(
    st.sampled_from(["application/json", "text/plain", "application/vnd.api+json"]),
    st.lists(st.tuples(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.from_regex(r"[a-z0-9-]{1,9}", fullmatch=True))),
    st.booleans(),
)
def test_ordinary_media_types_read_as_by_the_standard_library(
    media_type: str, parameters: list[tuple[str, str]], is_quoted: bool
) -> None:
    text = media_type + "".join(
        f'; {name}="{value}"' if is_quoted else f";{name}={value}" for name, value in parameters
    )
    message = email.message.Message()
    message["content-type"] = text
    assert parse_media_type(text.encode()) == (message.get_content_type(), message.get_content_charset() or "")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**400, -(10**400), "1" * 5000, float("nan"), "\ud800", "\0", "/", ""]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=6,
)
claims = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("sub", "exp", "nbf", "iat", "aud", "iss", "jti", "crit"), json_values),
)


@given(claims)
def test_no_signed_claims_make_the_verification_fail(payload: dict[str, Any]) -> None:
    _check_token(_sign(payload))


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jku"]), json_values))
def test_no_header_of_a_token_makes_the_verification_fail(header: dict[str, Any]) -> None:
    _check_token(_sign({"sub": "u1", "exp": NOW.timestamp() + 60}, header))


@given(
    st.text(st.characters(codec="latin-1"), max_size=300) | st.from_regex(r"[\w=-]*\.[\w=-]*\.[\w=-]*", fullmatch=True)
)
def test_no_text_makes_the_verification_fail(token: str) -> None:
    _check_token(token)


@pytest.mark.parametrize("digits", [20, 400, 5000])
async def test_a_token_with_a_huge_expiry_is_rejected(call: Any, digits: int) -> None:
    token = _sign_raw(b'{"sub": "u1", "exp": %s}' % (b"9" * digits))
    reply = await call("GET", "/api/push/subscriptions", key=token)
    assert (reply.status, reply.json["code"]) == (401, "invalid_token")


@pytest.mark.parametrize("part", ["header", "payload"])
async def test_a_token_with_deeply_nested_json_is_rejected(call: Any, part: str) -> None:
    nested = b"[" * 4000 + b"]" * 4000
    token = _sign_raw(nested) if part == "payload" else ".".join((_encode(nested)[:7000], "e30", "e30"))
    assert (await call("GET", "/api/push/subscriptions", key=token)).status == 401


async def test_a_token_for_another_audience_is_told_so(call: Any) -> None:
    token = jwt.encode({"sub": "u1", "exp": NOW.timestamp() + 60, "aud": "shop"}, SECRET, "HS256")
    reply = await call("GET", "/api/push/subscriptions", key=token)
    assert (reply.status, reply.json["code"]) == (401, "invalid_token")
    assert "aud" in reply.json["detail"]
    assert "TIDINGS_USER_SECRET" in reply.json["detail"]


@pytest.mark.parametrize("subject", ["a" * 201, "a\0b", "\ud800", "line\nbreak"])
async def test_a_subject_that_is_no_user_id_is_rejected(call: Any, subject: str) -> None:
    token = jwt.encode({"sub": subject, "exp": NOW.timestamp() + 60}, SECRET, "HS256")
    assert (await call("GET", "/api/push/subscriptions", key=token)).status == 401


@given(st.text(max_size=200))
def test_no_cursor_makes_the_parser_fail(cursor: str) -> None:
    with suppress(ValidationFailed):
        assert all(part is None or len(part) == 36 for part in _TraceCursor.decode(cursor)[:2])


HEADERS = {
    "host": ["[", "[::1", "a b", "\xff", "x" * 5000, "a/../b", "℀".encode().decode("latin-1"), "h:99999", "@"],
    "origin": ["[", "null", "http://[", "\xff" * 100, "x" * 5000],
    "cookie": ['a="' + "\\" * 30_000 + '"', "a=b; " * 6000, "=", "\xff"],
    "accept": ["*/" * 3000, "\xff", ";q=" * 3000],
    "content-length": ["9" * 5000, "-1", "+1", "0x10", "\xb2", "1, 2", "\xbd"],
    "idempotency-key": ["\xff", "", "k" * 300, "\t"],
    "authorization": ["Bearer " + "." * 9000, "Bearer \xff.\xff.\xff", "Bearer  ", "\xff", "Bearer tdg_" + "\xe9" * 49],
    "if-none-match": [",," * 9000, '"', "W/"],
    "if-modified-since": [
        "\xff",
        "Mon, 99 Foo 99999999999999999999 99:99:99",
        " ",
        ",",
        "Tue, 1 Jan 2030 1.2.3.4 +9",
        "0",
    ],
    "range": ["bytes=" + "0-1," * 5000, "bytes=-" + "9" * 5000, "\xff", "bytes=--", "bytes=1-0"],
    "if-range": ["\xff", '"'],
    "x-forwarded-for": [",".join(["1.2.3.4"] * 3000), "[", "\xff", "%", "::ffff:1.2.3.4%eth0"],
    "access-control-request-method": ["\xff" * 100, "x" * 5000],
    "access-control-request-headers": [",".join(["x"] * 9000), "\xff"],
    "transfer-encoding": ["\xff", "gzip, chunked"],
    "expect": ["\xff", "100-continue"],
}
ROUTES = (
    ("GET", "/api/push/public-key"),
    ("GET", "/api/push/subscriptions"),
    ("POST", "/api/push/subscribe"),
    ("POST", "/api/notifications"),
    ("POST", "/api/notifications/batch"),
    ("GET", "/api/nothing"),
    ("GET", "/sw.js"),
    ("GET", "/web/sw.js"),
    ("GET", "/docs"),
    ("GET", "/health/live"),
    ("OPTIONS", "/api/notifications"),
    ("PROPFIND", "/api/users/u1"),
    ("GET", "/demo/api/events"),
)


@pytest.mark.parametrize("name", HEADERS)
async def test_no_header_causes_an_error_of_the_server(call: Any, name: str) -> None:
    for value in HEADERS[name]:
        for method, path in ROUTES:
            body = b"{}" if method == "POST" else None
            with capture_logs() as logs:
                started = time.process_time()
                reply = await call(method, path, body=body, headers=JSON | {name: value}, key=None)
                seconds = time.process_time() - started
            assert reply.status < 500, (method, path, value[:50], reply.body)
            assert [line for line in logs if line["event"] == "request_failed"] == []
            assert seconds < 2, (method, path, value[:50])


PATHS = [
    "/api/users/%00",
    "/api/users/\ud7ff",
    "/api/users/" + "x" * 9000,
    "/api/events/%",
    "//",
    "/web/%2e%2e/x",
    "/web/\0",
]


@pytest.mark.parametrize("path", PATHS)
async def test_no_path_causes_an_error_of_the_server(call: Any, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "POST"):
        for query in ("", "?cursor=%00", "?limit=" + "9" * 5000, "?" + "&" * 5000, "?a=%ff%fe"):
            for key in (None, "tdg_" + "0" * 49):
                reply = await call(method, path + query, body=b"{}", headers=JSON, key=key)
                assert reply.status < 500, (method, path[:50], query[:50], reply.body)


async def test_the_body_is_not_read_before_the_caller_is_authenticated(call: Any) -> None:
    description = (await call("GET", "/openapi.json", key=None)).json
    checked = 0
    for path, item in description["paths"].items():
        for method, operation in item.items():
            if "requestBody" not in operation or not operation["security"]:
                continue
            received: list[str] = []

            async def receive(received: list[str] = received) -> dict[str, object]:
                received.append("body")
                return {"type": "http.request", "body": b"{}", "more_body": False}

            statuses: list[int] = []

            async def send(message: Any, statuses: list[int] = statuses) -> None:
                statuses += [message["status"]] if "status" in message else []

            scope = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.1",
                "method": method.upper(),
                "scheme": "http",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"1048576")],
                "client": ("192.0.2.1", 1),
                "server": ("testserver", 80),
            }
            await call.app(scope, receive, send)
            assert (statuses, received) == ([401], []), (method, path)
            checked += 1
    assert checked > 15


def _check_token(token: str) -> None:
    try:
        user_id = verify_user_token(SECRET, token, NOW)
    except Unauthenticated:
        return
    assert 1 <= len(user_id) <= 200


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _sign(payload: dict[str, Any], header: dict[str, Any] | None = None) -> str:
    return _sign_raw(json.dumps(payload).encode(), json.dumps({"alg": "HS256"} | (header or {})).encode())


def _sign_raw(payload: bytes, header: bytes = msgspec.json.encode({"alg": "HS256", "typ": "JWT"})) -> str:
    signed = f"{_encode(header)}.{_encode(payload)}"
    return f"{signed}.{_encode(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"
