"""Estimates add up however pages are cut, and the most engaged channel comes first."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tidings.flow.fanout.audience_estimate import SAMPLE_SIZE, ReachCounter, StatisticsCounter, build_probe
from tidings.flow.fanout.delivery_ids import NO_IDS
from tidings.flow.fanout.planner import plan_page
from tidings.model.audience import everyone
from tidings.model.channel import ChannelTraits
from tidings.model.channel_engagement import ChannelEngagement, rank_channels
from tidings.model.delivery import Recipient
from tidings.model.preference import Preference
from tidings.model.template import Category

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CHANNELS = ("email", "inapp")
CATEGORY = Category("NEWS", "News", opt_in=True)

recipients = st.builds(
    lambda targets, preferences: (targets, preferences),
    st.lists(st.sampled_from(("t1", "t2", "t3")), max_size=2, unique=True),
    st.dictionaries(st.sampled_from(CHANNELS), st.booleans()),
)


def traits_of(channel: str) -> ChannelTraits:
    return ChannelTraits(needs_contact_point=channel != "inapp")


def to_entries(enabled: dict[str, bool]) -> list[Preference]:
    return [Preference(category="NEWS", channel=channel, enabled=on) for channel, on in enabled.items()]


def wants(recipient: Recipient, channel: str) -> bool:
    return any(entry.enabled for entry in recipient.preferences if entry.channel == channel)


@given(st.lists(recipients, max_size=30), st.sets(st.sampled_from(("t1", "t2", "t3"))), st.integers(1, 7))
def test_f10_the_users_of_a_channel_add_up_however_pages_are_cut(
    described: list[tuple[list[str], dict[str, bool]]], suppressed: set[str], size: int
) -> None:
    people = [
        Recipient(f"u{number:02}", "en", "UTC", to_entries(preferences), {"email": tuple(targets)})
        for number, (targets, preferences) in enumerate(described)
    ]
    probe = build_probe(everyone(), "NEWS", (), NOW)
    counter = ReachCounter((*CHANNELS, "sms"))
    for start in range(0, len(people), size):
        page = people[start : start + size]
        plan = plan_page(
            page,
            probe,
            CATEGORY,
            channels=CHANNELS,
            ids=NO_IDS,
            now=NOW,
            get_traits=traits_of,
        )
        counter.add_page(page, plan, suppressed)
    result = counter.result(size=len(people), cursor=None)
    assert result.examined == len(people)
    for channel in CHANNELS:
        reach = result.by_channel[channel]
        assert reach.reachable + sum(reach.excluded.values()) == result.examined
    reached_by_mail = [one for one in people if wants(one, "email") and set(one.targets["email"]) - suppressed]
    assert result.by_channel["email"].reachable == len(reached_by_mail)
    in_app = [one for one in people if wants(one, "inapp")]
    assert result.reachable == len({one.user_id for one in (*reached_by_mail, *in_app)})
    assert list(result.sample) == [one.user_id for one in people[:SAMPLE_SIZE]]
    assert result.by_channel["sms"].reachable == 0


def test_the_most_engaged_channel_is_the_most_often_then_the_latest_used() -> None:
    earlier = NOW - timedelta(days=1)
    assert rank_channels({}) == []
    assert rank_channels(
        {
            "sms": ChannelEngagement(2, earlier),
            "email": ChannelEngagement(2, NOW),
            "inapp": ChannelEngagement(3, earlier),
            "chat": ChannelEngagement(2, earlier),
        }
    ) == ["inapp", "email", "chat", "sms"]
    assert ChannelEngagement(1, NOW).merge(ChannelEngagement(2, earlier)) == ChannelEngagement(3, NOW)


def test_statistics_name_channels_that_are_not_set_up_any_more() -> None:
    counter = StatisticsCounter(CHANNELS, lambda channel: channel != "inapp")
    ana, ben = (
        Recipient(name, "en", "UTC", (), {"email": ("t1",)} if name == "ana" else {}) for name in ("ana", "ben")
    )
    counter.add_page([ana, ben], {"ben": {"sms": ChannelEngagement(1, NOW)}})
    result = counter.result(size=2, cursor=None)
    assert (result.examined, result.engaged) == (2, 1)
    assert {name: (one.contactable, one.engaged, one.most_engaged) for name, one in result.by_channel.items()} == {
        "email": (1, 0, 0),
        "inapp": (2, 0, 0),
        "sms": (0, 1, 1),
    }
