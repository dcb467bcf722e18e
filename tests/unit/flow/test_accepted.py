"""What is accepted, as what, and which field every fault names."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tidings.errors import Invalid
from tidings.flow.intake.accept import FARTHEST, LONGEST_LIFE, accepted, explicit_ids
from tidings.flow.intake.catalog import Catalog
from tidings.model.audience import AnyOf, Audience, Except, Members, everyone, ticket_holders, users
from tidings.model.notification import Notification, NotificationState
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.testing.clock import START as NOW
from tidings.wording import MinijinjaWording

REQUEST = NotifyRequest("NEWS", everyone(), {"title": "Hello", "body": "World"})
HOUR = timedelta(hours=1)


class Accepting:
    def __init__(self, catalog: Catalog, wording: MinijinjaWording) -> None:
        self._catalog = catalog
        self._wording = wording

    def __call__(self, request: NotifyRequest) -> Notification:
        return accepted(request, self._catalog, self._wording, new_id="id-1", now=NOW)

    def faults(self, request: NotifyRequest) -> list[str]:
        with pytest.raises(Invalid) as caught:
            self(request)
        assert all(fault.message for fault in caught.value.faults)
        return [fault.field for fault in caught.value.faults]


@pytest.fixture
def accepting(catalog: Catalog, wording: MinijinjaWording) -> Accepting:
    return Accepting(catalog, wording)


def test_what_the_caller_leaves_open_is_as_the_template_says(accepting: Accepting) -> None:
    made = accepting(REQUEST)
    assert made == Notification(
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
        expires_at=NOW + LONGEST_LIFE,
        created_at=NOW,
        source=None,
    )
    assert made.state is NotificationState.ACCEPTED


def test_what_the_caller_says_holds(accepting: Accepting) -> None:
    made = accepting(
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
    assert (made.priority, made.send_at, made.expires_at) == (Priority.LOW, NOW + HOUR, NOW + 2 * HOUR)
    assert made.channels == ("email", "webpush"), "a channel named twice would be two deliveries to one device"
    assert (made.action_url, made.action_text, made.source) == ("/orders/1", "Open", "event:1")


def test_a_time_of_sending_that_has_passed_means_now(accepting: Accepting) -> None:
    made = accepting(replace(REQUEST, send_at=NOW - timedelta(days=400)))
    assert (made.send_at, made.expires_at) == (NOW, NOW + LONGEST_LIFE)


def test_nothing_lives_longer_than_push_services_keep_it(accepting: Accepting) -> None:
    made = accepting(replace(REQUEST, send_at=NOW + HOUR, expires_at=datetime.max.replace(tzinfo=UTC)))
    assert made.expires_at == NOW + HOUR + LONGEST_LIFE


def test_variables_are_kept_as_they_will_be_read_back(accepting: Accepting) -> None:
    variables = {"title": "Hello", "body": NOW, "more": ("a", 1)}
    assert accepting(replace(REQUEST, variables=variables)).variables == {
        "title": "Hello",
        "body": "2026-11-22T12:00:00Z",
        "more": ["a", 1],
    }


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (replace(REQUEST, template_code="NEW"), ["templateCode"]),
        (replace(REQUEST, audience=Members("fans", {})), ["audience.kind"]),
        (replace(REQUEST, variables={}), ["variables.body", "variables.title"]),
        (replace(REQUEST, variables={"title": "Hello"}), ["variables.body"]),
        (replace(REQUEST, variables={**REQUEST.variables, "more": {1, object()}}), ["variables"]),
        (replace(REQUEST, variables={**REQUEST.variables, "more": "\ud800"}), ["variables"]),
        (replace(REQUEST, variables={**REQUEST.variables, "more": "x" * 32_768}), ["variables"]),
        (replace(REQUEST, variables={**REQUEST.variables, "link": "javascript:alert(1)"}), ["variables"]),
        (replace(REQUEST, send_at=datetime(2026, 12, 1)), ["options.sendAt"]),  # noqa: DTZ001  # the mistake meant
        (replace(REQUEST, send_at=NOW + FARTHEST + HOUR), ["options.sendAt"]),
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
def test_every_fault_names_its_field(accepting: Accepting, request_: NotifyRequest, fields: list[str]) -> None:
    assert accepting.faults(request_) == fields


def test_a_mistyped_template_is_answered_with_the_nearest(accepting: Accepting) -> None:
    with pytest.raises(Invalid, match="did you mean 'EVENT_CANCELLATION'") as caught:
        accepting(replace(REQUEST, template_code="EVENT_CANCELATION"))
    assert caught.value.code == "unknown_template"


@pytest.mark.parametrize("url", ["/orders/1?a=b#c", "https://shop.example", "http://localhost:8000/x", "HTTPS://X.Y/"])
def test_paths_and_web_addresses_may_be_opened(accepting: Accepting, url: str) -> None:
    assert accepting(replace(REQUEST, action_url=url)).action_url == url


@pytest.mark.parametrize(
    ("audience", "ids"),
    [
        (users("ana", "ben"), ["ana", "ben"]),
        (everyone(), []),
        ((ticket_holders("e") & users("ana")) | AnyOf((users("ben"), users("ana"))), ["ana", "ben", "ana"]),
        (users("ana") - users("cleo"), ["ana"]),
        (Except(users("cleo")), []),
    ],
)
def test_named_users_are_found_wherever_they_stand_but_not_where_they_are_left_out(
    audience: Audience, ids: list[str]
) -> None:
    assert explicit_ids(audience) == ids
