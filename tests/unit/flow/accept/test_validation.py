"""Validation of requests: defaults, limits, and the field named by each error."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tidings.errors import ValidationFailed
from tidings.flow.accept.validation import MAX_TTL, build_notification
from tidings.flow.catalog import Catalog
from tidings.model.audience import (
    Audience,
    Complement,
    NamedSet,
    Union,
    everyone,
    mentioned_user_ids,
    ticket_holders,
    users,
)
from tidings.model.notification import Notification, NotificationState
from tidings.model.plan_options import DigestOptions, Step, ThrottleOptions
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.testing.clock import START as NOW

REQUEST = NotifyRequest("NEWS", everyone(), {"title": "Hello", "body": "World"})
HOUR = timedelta(hours=1)


class RequestValidation:
    def __init__(self, catalog: Catalog, renderer: MinijinjaRenderer) -> None:
        self._catalog = catalog
        self._wording = renderer

    def __call__(self, request: NotifyRequest) -> Notification:
        return build_notification(request, self._catalog, self._wording, notification_id="id-1", now=NOW)

    def errors(self, request: NotifyRequest) -> list[str]:
        with pytest.raises(ValidationFailed) as caught:
            self(request)
        assert all(error.message for error in caught.value.field_errors)
        return [error.field for error in caught.value.field_errors]


@pytest.fixture
def validation(catalog: Catalog, renderer: MinijinjaRenderer) -> RequestValidation:
    return RequestValidation(catalog, renderer)


def test_omitted_options_default_to_the_template(validation: RequestValidation) -> None:
    notification = validation(REQUEST)
    assert notification == Notification(
        id="id-1",
        template_code="NEWS",
        template_version=1,
        category="NEWS",
        audience=everyone(),
        variables={"title": "Hello", "body": "World"},
        priority=Priority.HIGH,
        channels=(),
        action_url=None,
        action_text=None,
        send_at=NOW,
        expires_at=NOW + MAX_TTL,
        created_at=NOW,
        source=None,
    )
    assert notification.state is NotificationState.ACCEPTED


def test_given_options_override_the_template(validation: RequestValidation) -> None:
    notification = validation(
        replace(
            REQUEST,
            priority=Priority.LOW,
            send_at=(NOW + HOUR).astimezone(timezone(HOUR)),
            expires_at=NOW + 2 * HOUR,
            channels=("email", "webpush", "email"),
            action_url="/orders/1",
            action_text="Open",
            source="event:1",
        )
    )
    assert (notification.priority, notification.send_at, notification.expires_at) == (
        Priority.LOW,
        NOW + HOUR,
        NOW + 2 * HOUR,
    )
    assert notification.channels == ("email", "webpush"), "a channel named twice would be two deliveries to one device"
    assert (notification.action_url, notification.action_text, notification.source) == ("/orders/1", "Open", "event:1")


def test_a_past_send_time_means_now(validation: RequestValidation) -> None:
    notification = validation(replace(REQUEST, send_at=NOW - timedelta(days=400)))
    assert (notification.send_at, notification.expires_at) == (NOW, NOW + MAX_TTL)


def test_the_expiry_is_bounded_by_what_push_services_keep(validation: RequestValidation) -> None:
    notification = validation(replace(REQUEST, send_at=NOW + HOUR, expires_at=datetime.max.replace(tzinfo=UTC)))
    assert notification.expires_at == NOW + HOUR + MAX_TTL


def test_variables_are_stored_as_they_are_read_back(validation: RequestValidation) -> None:
    variables = {"title": "Hello", "body": NOW, "more": ("a", 1)}
    assert validation(replace(REQUEST, variables=variables)).variables == {
        "title": "Hello",
        "body": "2026-11-22T12:00:00Z",
        "more": ["a", 1],
    }


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (replace(REQUEST, template_code="NEW"), ["templateCode"]),
        (replace(REQUEST, audience=NamedSet("fans", {})), ["audience.kind"]),
        (replace(REQUEST, variables={}), ["variables.body", "variables.title"]),
        (replace(REQUEST, variables={"title": "Hello"}), ["variables.body"]),
        (replace(REQUEST, variables={**REQUEST.variables, "more": {1, object()}}), ["variables"]),
        (replace(REQUEST, variables={**REQUEST.variables, "more": "\ud800"}), ["variables"]),
        (replace(REQUEST, variables={**REQUEST.variables, "more": "x" * 32_768}), ["variables"]),
        (replace(REQUEST, variables={**REQUEST.variables, "link": "javascript:alert(1)"}), ["variables"]),
        (replace(REQUEST, send_at=datetime(2026, 12, 1)), ["options.sendAt"]),  # noqa: DTZ001  # the tested mistake
        (replace(REQUEST, send_at=NOW + timedelta(days=365, seconds=1)), ["options.sendAt"]),
        (replace(REQUEST, send_at=datetime.max.replace(tzinfo=UTC)), ["options.sendAt"]),
        (replace(REQUEST, send_at=datetime.max.replace(tzinfo=timezone(-HOUR))), ["options.sendAt"]),
        (replace(REQUEST, expires_at=datetime(2026, 12, 1)), ["options.expiresAt"]),  # noqa: DTZ001  # as above
        (replace(REQUEST, expires_at=NOW), ["options.expiresAt"]),
        (replace(REQUEST, expires_at=NOW - HOUR), ["options.expiresAt"]),
        (replace(REQUEST, send_at=NOW + HOUR, expires_at=NOW + HOUR), ["options.expiresAt"]),
        (replace(REQUEST, channels=("webpush", "pigeon")), ["options.channels[1]"]),
        (replace(REQUEST, action_url="//evil.example"), ["options.actionUrl"]),
        (replace(REQUEST, action_url="/\\evil.example"), ["options.actionUrl"]),
        (replace(REQUEST, action_url="javascript:alert(1)"), ["options.actionUrl"]),
        (replace(REQUEST, action_url="https://user@evil.example/"), ["options.actionUrl"]),
        (replace(REQUEST, action_url="/" + "x" * 2000), ["options.actionUrl"]),
        (replace(REQUEST, action_text=" "), ["options.actionText"]),
        (replace(REQUEST, action_text="x" * 201), ["options.actionText"]),
        (
            replace(REQUEST, variables={"title": "x"}, channels=("pigeon",), action_text="", expires_at=NOW),
            ["variables.body", "options.expiresAt", "options.channels[0]", "options.actionText"],
        ),
    ],
)
def test_every_error_names_its_field(validation: RequestValidation, request_: NotifyRequest, fields: list[str]) -> None:
    assert validation.errors(request_) == fields


def test_a_mistyped_template_gets_the_nearest_as_a_suggestion(validation: RequestValidation) -> None:
    with pytest.raises(ValidationFailed, match="did you mean 'EVENT_CANCELLATION'") as caught:
        validation(replace(REQUEST, template_code="EVENT_CANCELATION"))
    assert caught.value.code == "unknown_template"


@pytest.mark.parametrize("url", ["/orders/1?a=b#c", "https://shop.example", "http://localhost:8000/x", "HTTPS://X.Y/"])
def test_paths_and_web_addresses_may_be_opened(validation: RequestValidation, url: str) -> None:
    assert validation(replace(REQUEST, action_url=url)).action_url == url


@pytest.mark.parametrize(
    ("audience", "ids"),
    [
        (users("ana", "ben"), ["ana", "ben"]),
        (everyone(), []),
        ((ticket_holders("e") & users("ana")) | Union((users("ben"), users("ana"))), ["ana", "ben", "ana"]),
        (users("ana") - users("cleo"), ["ana"]),
        (Complement(users("cleo")), []),
    ],
)
def test_mentioned_users_include_all_parts_except_exclusions(audience: Audience, ids: list[str]) -> None:
    assert mentioned_user_ids(audience) == ids


def test_mentioned_users_include_exclusions_when_asked() -> None:
    assert mentioned_user_ids(users("ana") - (users("cleo") - users("dan")), with_excluded=True) == [
        "ana",
        "cleo",
        "dan",
    ]


def test_keys_of_digest_and_throttle_are_resolved_with_the_variables(validation: RequestValidation) -> None:
    digest, throttle = DigestOptions("title", 600), ThrottleOptions(3, 60)
    notification = validation(replace(REQUEST, digest=digest, throttle=throttle))
    assert notification.plan.digest == DigestOptions("title", 600, key_value="Hello")
    assert notification.plan.throttle == ThrottleOptions(3, 60, key_value="")


def test_c36_a_key_whose_variable_is_missing_is_refused_at_accept(validation: RequestValidation) -> None:
    assert validation.errors(replace(REQUEST, digest=DigestOptions("eventId", 600))) == ["options.digest.key"]
    assert validation.errors(replace(REQUEST, throttle=ThrottleOptions(3, 60, "eventId"))) == ["options.throttle.key"]


def test_c36_a_throttle_that_could_not_be_applied_is_refused_at_accept(validation: RequestValidation) -> None:
    for broken in (ThrottleOptions(0, 60), ThrottleOptions(3, 0)):
        assert validation.errors(replace(REQUEST, throttle=broken)) == ["options.throttle"]
    needs_digest = ThrottleOptions(3, 60, instead="digest")
    assert validation.errors(replace(REQUEST, throttle=needs_digest)) == ["options.throttle.instead"]
    assert validation(replace(REQUEST, throttle=needs_digest, digest=DigestOptions("", 600))).plan.has_overflow_digest


def test_a_digest_of_some_channels_of_the_steps_is_refused(validation: RequestValidation) -> None:
    request = replace(REQUEST, steps=(Step(("webpush",)), Step(("email",), 600)))
    some = DigestOptions("", 600, channels=("email",))
    assert validation.errors(replace(request, digest=some)) == ["options.digest.channels"]
    for channels in ((), ("email", "webpush")):
        assert validation(replace(request, digest=DigestOptions("", 600, channels=channels))).plan.steps
