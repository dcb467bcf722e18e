"""Opens and clicks: which requests count as those of machines, and the counts of a delivery."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.engagement import (
    Engagement,
    MachineReason,
    MailRequest,
    compute_engagement,
    find_machine_reason,
    format_link_number,
)
from tidings.model.receipt import EventCause, Receipt, ReceiptStatus

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
GMAIL = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"


def make_request(agent: str = FIREFOX, *, method: str = "GET", purpose: str = "", seconds: float = 3600) -> MailRequest:
    return MailRequest(method, agent, purpose, timedelta(seconds=seconds))


def make_event(cause: EventCause, code: str | None = None, seconds: float = 0) -> Receipt:
    at = NOW + timedelta(seconds=seconds)
    return Receipt(f"{cause}-{code}-{seconds}", "email", "tidings", None, cause, None, "d-1", None, code, "", at, at)


def click(number: int, total: int, seconds: float) -> Receipt:
    return make_event(EventCause.CLICK, format_link_number(number, total), seconds)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (make_request(), None),
        (make_request(IPHONE), None),
        (make_request(seconds=10), None),
        (make_request(seconds=9.9), MachineReason.TOO_SOON),
        (make_request(seconds=-5), MachineReason.TOO_SOON),
        (make_request(method="HEAD"), MachineReason.HEAD_REQUEST),
        (make_request(purpose="prefetch;anonymous-client-ip"), MachineReason.PREFETCH),
        # Apple Mail Privacy Protection sends nothing else
        (make_request("Mozilla/5.0"), MachineReason.MAIL_PROXY),
        (make_request(GMAIL), MachineReason.MAIL_PROXY),
        (make_request("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html"), "mail_proxy"),
        (make_request(""), MachineReason.SCANNER_AGENT),
        (make_request("Mozilla/5.0 (compatible; bingbot/2.0)"), MachineReason.SCANNER_AGENT),
        (make_request("Barracuda Sentinel (EE)"), MachineReason.SCANNER_AGENT),
        (make_request("python-requests/2.32"), MachineReason.SCANNER_AGENT),
    ],
)
def test_c62_a_request_that_may_be_a_machines_counts_as_one(
    request_: MailRequest, reason: MachineReason | None
) -> None:
    assert find_machine_reason(request_) == reason


def test_c62_clicks_on_every_link_within_seconds_are_those_of_a_scanner() -> None:
    scan = [click(1, 3, 0), click(2, 3, 1), click(3, 3, 2.5)]
    assert compute_engagement(scan) == Engagement(machine_clicks=3)
    assert compute_engagement(scan[:2]) == Engagement(human_clicks=2), "not every link"
    slow = [click(1, 3, 0), click(2, 3, 4), click(3, 3, 9)]
    assert compute_engagement(slow) == Engagement(human_clicks=3), "a person who reads"
    assert compute_engagement([*scan, click(2, 3, 600)]) == Engagement(human_clicks=1, machine_clicks=3)
    assert compute_engagement([click(1, 1, 0)]) == Engagement(human_clicks=1), "a single link says nothing"


def test_c62_people_and_machines_are_counted_apart() -> None:
    events = [
        make_event(EventCause.MACHINE_OPEN, "mail_proxy"),
        make_event(EventCause.OPEN, None, 60),
        make_event(EventCause.MACHINE_CLICK, "scanner_agent", 2),
        click(1, 2, 70),
    ]
    assert compute_engagement(events) == Engagement(1, 1, 1, 1)


def test_c63_without_events_nothing_is_known() -> None:
    at = NOW
    delivered = Receipt(
        *("r", "email", "ses", ReceiptStatus.DELIVERED, EventCause.NONE, None, "d-1", None, None, "", at, at)
    )
    assert compute_engagement([delivered]) is None


@given(
    st.lists(
        st.one_of(
            st.builds(click, st.integers(1, 3), st.just(3), st.integers(0, 12)),
            st.builds(make_event, st.just(EventCause.OPEN), st.none(), st.integers(0, 12)),
            st.builds(make_event, st.just(EventCause.MACHINE_OPEN), st.just("too_soon"), st.integers(0, 12)),
        ),
        max_size=8,
        unique_by=lambda event: event.id,
    ),
    st.randoms(),
)
def test_c62_the_order_of_events_changes_nothing(events: list[Receipt], random: object) -> None:
    before = compute_engagement(events)
    shuffled = sorted(events, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert compute_engagement(shuffled) == before
    if before is not None:
        counted = before.human_opens + before.machine_opens + before.human_clicks + before.machine_clicks
        assert counted == len(events)
